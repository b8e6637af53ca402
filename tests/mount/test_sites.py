"""`labfs sites`, and what is said of servers that are not there, are another system, or refuse what they are given."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from stage import Mount, Sandbox, labfs, typed

from labfs.backends import KINDS

SECRETS = {
    "clarity": 'username = "apiuser"\npassword = "DISTINCT-secret"\n',
    "redcap": 'projects = { "study" = { token = "0123456789ABCDEF0123456789ABCDEF" } }\n',
}
FRESH = {  # words of where a new credential comes from
    "basespace": "developer.basespace.illumina.com",
    "clarity": "administrator of the LIMS",
    "odm": "profile page",
    "portal": "26 weeks",
    "redcap": "page API",
}


def section(name: str, kind: str, url: str, more: str = "") -> str:
    secrets = SECRETS.get(kind, 'token = "DISTINCT-secret"\n')
    return f'[sites."{name}"]\nkind = "{kind}"\nurl = "{url}"\ntimeout_s = 2\n{secrets}{more}\n'


def written(tmp_path: Path, *sections: str) -> Path:
    path = tmp_path / "labfs.toml"
    path.write_text("\n".join(sections))
    path.chmod(0o600)
    return path


def problems(path: Path) -> dict[str, str]:
    """Ask all sites of a configuration; return what is said of each."""
    done = typed("sites", "--json", "-c", path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "DISTINCT-secret" not in done.stdout
    return {site["name"]: site["problem"] for site in json.loads(done.stdout)["sites"]}


def urls(sandbox: Sandbox) -> dict[str, str]:
    known: dict[str, str] = json.loads((sandbox.directory / "sandbox.json").read_text())["sites"]
    return known


def test_all_sites_are_asked_and_told(sandbox: Sandbox) -> None:
    done = typed("sites", "--json", "-c", sandbox.config)
    assert (done.returncode, done.stderr) == (0, "")
    told = {site["kind"]: site for site in json.loads(done.stdout)["sites"]}
    assert set(told) == set(KINDS)
    assert [site["problem"] for site in told.values()] == [""] * len(told)
    assert all(0 < site["latency_s"] < 5 for site in told.values())
    assert (told["basespace"]["user"], told["portal"]["user"], told["clarity"]["user"]) == (
        "Ada Lab",
        "Ada Lab",
        "apiuser",
    )
    assert "WRITE GLOBAL" in told["basespace"]["rights"]


def test_a_row_says_who_we_are_and_what_we_may_do(sandbox: Sandbox, tmp_path: Path) -> None:
    text = sandbox.config.read_text().partition("[sites.portal]")[0]
    said = typed("sites", "-c", written(tmp_path, text)).stdout
    assert "as Ada Lab; may: READ GLOBAL" in said
    assert " ms, as apiuser\n" in said


def test_offline_asks_nobody(sandbox: Sandbox) -> None:
    sandbox.reset()
    done = typed("sites", "--offline", "-c", sandbox.config)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, len(KINDS))
    assert sandbox.url in done.stdout
    assert sandbox.report()["total"] == 0


# -- servers ------------------------------------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer everything with the same bytes, by TLS if there is a context; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                with connection if context is None else context.wrap_socket(connection, server_side=True) as wire:
                    wire.recv(65536)
                    wire.sendall(answer)
            except ssl.SSLError:
                continue
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_each_cause_has_its_own_sentence(tmp_path: Path) -> None:
    authority, page = trustme.CA(), http("401 Unauthorized", b"<html>", "WWW-Authenticate: Negotiate")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    ca = f'ca = "{tmp_path / "ca.pem"}"\n'
    with ExitStack() as stack:
        tls = stack.enter_context(answering(page, context))
        plain = stack.enter_context(answering(page))
        gone = stack.enter_context(socket.socket())
        gone.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{gone.getsockname()[1]}"
        hub = "https://hub.example"
        path = written(
            tmp_path,
            section("no host", "basespace", "https://no-such-host.invalid"),
            section("nobody", "basespace", f"http://{nobody}"),
            section("other name", "basespace", f"https://localhost:{tls}", ca),
            section("stranger", "basespace", f"https://localhost:{tls}"),
            section("not tls", "basespace", f"https://127.0.0.1:{plain}"),
            section("gateway", "odm", f"http://127.0.0.1:{plain}"),
            section("gone proxy", "basespace", hub, f'proxy = "http://{nobody}"\n'),
            section("no proxy", "basespace", hub, 'proxy = "http://no-such-proxy.invalid:3128"\n'),
            section("odd proxy", "basespace", hub, 'proxy = "ftp://proxy.example"\n'),
        )
        began = time.monotonic()
        told = problems(path)
    assert time.monotonic() - began < 5
    words = {
        "no host": "no host is called no-such-host.invalid here. Is its address right",
        "nobody": f"nobody listens at {nobody}. Is its address right, and its server running?",
        "other name": "the certificate of localhost is made out to another name; is the address of the site right?",
        "stranger": "is signed by an authority that is not trusted here",
        "not tls": "answers, but not by TLS; is its address right?",
        "gateway": "Genestack Open Data Manager does not answer so: another system",
        "gone proxy": f"the proxy {nobody} (from its key proxy) cannot be reached (Connection refused).",
        "no proxy": "the proxy no-such-proxy.invalid:3128 (from its key proxy) cannot be reached",
        "odd proxy": "the proxy in its key proxy is of a kind that labfs cannot use",
    }
    assert {name: words[name] in said for name, said in told.items()} == dict.fromkeys(words, True), told
    assert all(said.endswith((".", "?", '"PATH".')) and "?." not in said for said in told.values()), told
    assert not any("sub-exception" in said or "\n" in said for said in told.values())


def test_another_system_is_called_that(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each kind at the address of each other one: nobody is told that a token was refused."""
    pairs = [(kind, other) for kind in KINDS for other in KINDS if kind != other]
    known = urls(sandbox)
    path = written(tmp_path, *(section(f"{kind} at {other}", kind, known[other]) for kind, other in pairs))
    told = problems(path)
    assert len(told) == 20
    for name, said in told.items():
        title = KINDS[name.split()[0]].title
        meant = (f"no {title} answers at", f"{title} does not answer so: another system", "there is no API at")
        assert any(words in said for words in meant), f"{name}: {said}"
        assert "is the site's url right?" in said.lower().replace("it right?", "the site's url right?"), said
        assert "was refused" not in said


def test_a_refused_credential_says_where_a_new_one_is_made(sandbox: Sandbox, tmp_path: Path) -> None:
    known = urls(sandbox)
    told = problems(written(tmp_path, *(section(kind, kind, known[kind]) for kind in KINDS)))
    for kind, said in told.items():
        assert FRESH[kind] in said
        assert said.endswith(f"It is stored by: labfs login {kind}."), said
    assert "Unrecognized access token. The token or password was refused." in told["basespace"]


def test_a_mistake_in_one_section_hides_no_other_site(sandbox: Sandbox, tmp_path: Path) -> None:
    bad = '[sites.bad]\nkind = "clarity"\nurl = "https://lims.example"\ntoken = "x"\n'
    told = problems(written(tmp_path, sandbox.config.read_text(), bad, section("worse", "odm", "ftp://odm.example")))
    assert "unknown key “token”, which belongs to basespace and odm and portal" in told["bad"]
    assert "is not a web address" in told["worse"]
    assert [told[kind] for kind in KINDS] == [""] * len(KINDS)


def test_an_address_may_end_in_the_path_of_the_api(sandbox: Sandbox, tmp_path: Path) -> None:
    suffixes = {
        "basespace": ("/v1pre3", "/v2/"),
        "clarity": ("/api/v2/", "/api"),
        "odm": ("/api/v1",),
        "portal": ("/v1/",),
        "redcap": ("/api/",),
    }
    parts = sandbox.config.read_text().split("[sites.")
    own = {part.partition("]")[0]: part.partition("]")[2] for part in parts}
    own["redcap"] = re.sub(r"(projects = \{ [^}]*\}).*", r"\1 }", own["redcap"])
    known = urls(sandbox)
    sections = [
        f'[sites."{kind}{suffix.replace("/", "-")}"]{own[kind].replace(known[kind], known[kind] + suffix)}'
        for kind, each in suffixes.items()
        for suffix in each
    ]
    done = typed("sites", "-c", written(tmp_path, "\ufeff" + sections[0], *sections[1:]))
    assert (done.returncode, done.stdout.count(" well, ")) == (0, 7), done.stdout


@pytest.mark.mount
def test_a_mount_does_not_wait_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    """Nobody listens, or no host has the name: the mount says so itself, instead of that there is no answer yet."""
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        sections = [
            section("nobody", "basespace", f"http://127.0.0.1:{gone.getsockname()[1]}"),
            section("nowhere", "odm", "https://no-such-host.invalid"),
        ]
        mount = Mount(tmp_path, written(tmp_path, *sections))
        try:
            done: Any = labfs("mount", "-c", tmp_path / "labfs.toml", mount.path, env=mount.env)
            assert (done.returncode, done.stderr) == (0, "")
            assert "nobody listens at 127.0.0.1:" in done.stdout
            assert "no host is called no-such-host.invalid here" in done.stdout
            assert "has not answered yet" not in done.stdout
        finally:
            mount.clean_up()


def test_a_server_that_is_silent_holds_up_no_other(sandbox: Sandbox, tmp_path: Path) -> None:
    text = sandbox.config.read_text().partition("[sites.clarity]")[0]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        told = problems(written(tmp_path, text, section("silent", "odm", f"http://127.0.0.1:{port}")))
    assert time.monotonic() - began < 8
    assert told["basespace"] == ""
    assert "silent: GET api/v1/as-curator/studies" in told["silent"]
