"""`labfs login`: what is entered is tried, stored where nobody else reads it, and taken up by a mount that runs."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ring
from stage import Folder, Mount, Sandbox, labfs, typed, until

from labfs.backends import KINDS

ENTERED = {  # what is typed for a new site, one a line
    "basespace": ["basespace/token"],
    "clarity": ["clarity/username", "clarity/password"],
    "odm": ["odm/token"],
    "portal": ["portal/token"],
    "redcap": ["redcap/tokens/biobank"],
}


def known(sandbox: Sandbox) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sandbox.directory / "sandbox.json").read_text())
    return found


def entered(sandbox: Sandbox, kind: str) -> list[str]:
    lines = []
    for path in ENTERED[kind]:
        value: Any = known(sandbox)["credentials"]
        for part in path.split("/"):
            value = value[part]
        lines.append(str(value))
    return lines


@pytest.fixture
def login(tmp_path: Path) -> Callable[..., Any]:
    """Type `labfs login`, with lines on standard input and no keyring but what `env` names."""

    def run(*arguments: str, lines: list[str], env: dict[str, str] | None = None) -> Any:
        command = [sys.executable, "-m", "labfs", "login", *arguments, "--stdin"]
        environment = {**os.environ, "LABFS_CONFIG": str(tmp_path / "labfs.toml"), **ring.NONE, **(env or {})}
        text = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, env=environment)
        for line in lines:
            assert line == "apiuser" or line not in done.stdout + done.stderr
        return done

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_site_is_tried_added_and_usable(
    sandbox: Sandbox, tmp_path: Path, login: Callable[..., Any], kind: str
) -> None:
    lines, options = entered(sandbox, kind), ["--project", "my study"] if kind == "redcap" else []
    done = login("my lab", "--kind", kind, "--url", known(sandbox)["sites"][kind], *options, lines=lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert "my lab: signed in as" in done.stdout
    config, kept = tmp_path / "labfs.toml", sorted((tmp_path / "secrets").iterdir())
    assert [stat.S_IMODE(path.stat().st_mode) for path in (config, *kept)] == [0o600] * (1 + len(kept))
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert [path.read_text().strip() for path in kept] == [line for line in lines if line != "apiuser"]
    assert not any(line in config.read_text() for line in lines if line != "apiuser")
    done = typed("sites", "-c", config)
    assert (done.returncode, " well, " in done.stdout) == (0, True)


def test_the_configuration_is_edited_and_nothing_else_in_it_changes(
    sandbox: Sandbox, tmp_path: Path, login: Callable[..., Any]
) -> None:
    before = f"""# the lab's own
xattrs = true   # for the file manager

[sites.hub]     # {{ the first }}
kind = "basespace"
url = '{sandbox.url}'
token = "an-older-one"   # renewed each year
timeout_s = 8   # s

[sites.trials]
kind = "redcap"
url = "{known(sandbox)["sites"]["redcap"]}"
projects = {{ "plates" = {{ token = {{ env = "PLATES" }} }} }}  # more to come

[cache]
mib = 64
"""
    config = tmp_path / "labfs.toml"
    config.write_text(f"\ufeff{before}")
    config.chmod(0o640)
    assert login("hub", lines=entered(sandbox, "basespace")).returncode == 0
    assert login("trials", "--project", "bio", lines=entered(sandbox, "redcap")).returncode == 0
    hub, bio = (f'{{ file = "{tmp_path}/secrets/{name}-token" }}' for name in ("hub", "trials-bio"))
    wanted = before.replace('"an-older-one"', hub)
    text = config.read_text()
    assert re.sub(r" projects =.*|projects =.*", "", text) == re.sub(r" projects =.*|projects =.*", "", wanted)
    assert re.search(rf'projects = {{ "plates" = {{ token = {{ env = "PLATES" }} }}, ?bio = .*{re.escape(bio)}', text)
    assert "# more to come" in text
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    again = login("trials", "--project", "twin", lines=entered(sandbox, "redcap"))
    assert (again.returncode, "the project “bio” has the same token" in again.stderr) == (1, True)
    assert config.read_text() == text


def test_what_the_server_refuses_is_not_stored(sandbox: Sandbox, tmp_path: Path, login: Callable[..., Any]) -> None:
    done = login("hub", "--kind", "basespace", "--url", sandbox.url, lines=["DISTINCT-wrong-token"])
    assert done.returncode == 1
    assert "Nothing was stored: hub: GET v1pre3/users/current: Unrecognized access token." in done.stderr
    done = login("hub", "--kind", "basespace", "--url", sandbox.url, lines=["a\u200bDISTINCT"])
    assert "holds an invisible character (U+200B)" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "lines", "words"),
    [
        (["hub"], ["x"], "There is no site “hub” in"),
        (["hub", "--kind", "basepace", "--url", "https://h.example"], ["x"], "unknown kind “basepace”"),
        (["hub", "--kind", "odm", "--url", "h.example"], ["x"], "is not a web address"),
        (["hub", "--kind", "odm", "--url", "https://h.example"], [], "Standard input ended too soon"),
        (["hub", "--kind", "odm", "--url", "https://h.example", "--project", "a"], ["x"], "leave out --project"),
        (["r", "--kind", "redcap", "--url", "https://h.example"], ["x"], "name its folder with --project"),
        (["r", "--kind", "redcap", "--url", "https://h.example", "--device", "x"], ["x"], "name its folder"),
        (["o", "--kind", "odm", "--url", "https://h.example", "--device", "x"], ["x"], "has no page"),
    ],
)
def test_what_is_typed_wrongly_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], lines: list[str], words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    done = typed("login", *arguments, "--stdin", env={"LABFS_CONFIG": str(tmp_path / "labfs.toml")})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_person_is_asked_and_the_password_is_not_shown(sandbox: Sandbox, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "labfs", "login", "lims", "--kind", "clarity"]
    command += ["--url", known(sandbox)["sites"]["clarity"]]
    username, password = entered(sandbox, "clarity")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"LABFS_CONFIG": str(tmp_path / "labfs.toml"), **ring.NONE}
        os.execv(sys.executable, command)
    said = ""

    def heard(words: str) -> None:
        nonlocal said
        until_s = time.monotonic() + 30
        while words not in said and time.monotonic() < until_s:
            if select.select([terminal], [], [], 1)[0]:
                try:
                    said += os.read(terminal, 4096).decode()
                except OSError:  # the other end is closed
                    break
        assert words in said, said

    try:
        heard("Username:")
        os.write(terminal, f"{username}\n".encode())
        heard("Password:")
        time.sleep(0.1)  # until the terminal shows nothing any more
        os.write(terminal, f"{password}\n".encode())
        heard("signed in as apiuser")
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "lims is Illumina Clarity LIMS. The administrator of the LIMS sets passwords" in said
    assert password not in said
    assert password not in (tmp_path / "labfs.toml").read_text()
    assert 'username = "apiuser"' in (tmp_path / "labfs.toml").read_text()


# -- the keyring ----------------------------------------------------------------------------------------------------


def test_a_keyring_is_used_where_there_is_one(sandbox: Sandbox, tmp_path: Path, login: Callable[..., Any]) -> None:
    env = ring.env(tmp_path / "ring.json")
    done = login("hub", "--kind", "basespace", "--url", sandbox.url, lines=entered(sandbox, "basespace"), env=env)
    assert (done.returncode, "is in the keyring" in done.stdout) == (0, True)
    assert json.loads((tmp_path / "ring.json").read_text()) == {"labfs:hub token": sandbox.token}
    assert "token = { keyring = true }" in (tmp_path / "labfs.toml").read_text()
    assert not (tmp_path / "secrets").exists()
    assert labfs("sites", "-c", tmp_path / "labfs.toml", env=env).returncode == 0
    done = labfs("sites", "-c", tmp_path / "labfs.toml", env={**env, "LABFS_RING_LOCKED": "1"})
    (line,) = done.stdout.splitlines()
    assert "the keyring did not give sites.hub.token (KeyringLocked); unlock it" in line
    assert "paragraph" not in line


def test_a_keyring_that_is_locked_is_no_obstacle(sandbox: Sandbox, tmp_path: Path, login: Callable[..., Any]) -> None:
    env = {**ring.env(tmp_path / "ring.json"), "LABFS_RING_LOCKED": "1"}
    done = login("hub", "--kind", "basespace", "--url", sandbox.url, lines=entered(sandbox, "basespace"), env=env)
    assert (done.returncode, str(tmp_path / "secrets" / "hub-token") in done.stdout) == (0, True)


# -- the device flow ------------------------------------------------------------------------------------------------

HURRIED = "from labfs.backends.basespace import device; device.POLL_S = 0.05;from labfs.cli.main import main; main()"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [("allow", 0, "signed in as Ada Lab"), ("refuse", 1, "the request was refused on the page")],
)
def test_a_token_is_allowed_on_a_page(sandbox: Sandbox, tmp_path: Path, answer: str, status: int, words: str) -> None:
    client = known(sandbox)["credentials"]["basespace"]
    command = [sys.executable, "-c", HURRIED, "login", "hub", "--kind", "basespace", "--url", sandbox.url]
    command += ["--device", client["client_id"], "--stdin", "-c", str(tmp_path / "labfs.toml")]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ring.NONE},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(f"{client['client_secret']}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        page = re.search(r"http://\S+", line)
        assert page is not None, line + process.stdout.read()
        until(lambda: sandbox.requests()["POST /v1pre3/oauthv2/token"] > 1)  # which are told to wait
        shown = httpx.get(page[0], trust_env=False).text
        assert "READ GLOBAL" in shown
        httpx.post(page[0], data={"answer": answer}, trust_env=False).raise_for_status()
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, words in said) == (status, True), said
    assert client["client_secret"] not in said
    assert (tmp_path / "labfs.toml").exists() == (answer == "allow")


# -- a credential that expires while mounted ------------------------------------------------------------------------


@pytest.fixture(params=["file", "keyring"])
def renewable(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Iterator[tuple[Mount, Any]]:
    """A mount, and what sets its token from outside."""
    token, rings = tmp_path / "token", tmp_path / "ring.json"

    def put(value: str) -> None:
        token.write_text(value)
        token.chmod(0o600)
        rings.write_text(json.dumps({"labfs:basespace token": value}))

    put(sandbox.token)
    way = f'{{ file = "{token}" }}' if request.param == "file" else "{ keyring = true }"
    text = f'xattrs = true\n[sites.basespace]\nkind = "basespace"\nurl = "{sandbox.url}"\ntoken = {way}\n'
    (tmp_path / "labfs.toml").write_text(text)
    mount = Mount(tmp_path, tmp_path / "labfs.toml")
    mount.env |= ring.env(rings)
    try:
        yield mount.start(), put
    finally:
        mount.clean_up()


@pytest.mark.mount
def test_a_credential_that_expires_is_told_and_taken_up_when_it_is_renewed(
    sandbox: Sandbox, renewable: tuple[Mount, Any], login: Callable[..., Any]
) -> None:
    mount, put = renewable
    record: Folder = sandbox.fresh()
    record.put("read.txt", b"what was read before\n")
    record.put("other.txt", b"what was not\n")
    folder = record.at(mount.path)
    assert (folder / "read.txt").read_bytes() == b"what was read before\n"
    put("an-expired-token")
    assert (folder / "read.txt").read_bytes() == b"what was read before\n"  # from the cache
    assert sorted(os.listdir(folder)) == ["other.txt", "read.txt"]
    with pytest.raises(PermissionError):
        (folder / "other.txt").read_bytes()
    with pytest.raises(PermissionError):
        (folder / "new.txt").write_bytes(b"x")
    for name in ("other.txt", "new.txt"):
        said = typed("why", folder / name, env=mount.env).stdout
        assert "Unrecognized access token. The token or password was refused." in said
        assert "It is stored by: labfs login basespace." in said
    put(sandbox.token)
    assert (folder / "other.txt").read_bytes() == b"what was not\n"
    (folder / "later.txt").write_bytes(b"saved again\n")
    assert record.stored["later.txt"] == b"saved again\n"
    put("another-that-expired")
    with pytest.raises(PermissionError):
        (folder / "newest.txt").write_bytes(b"x")
    done = login("basespace", lines=[sandbox.token], env=mount.env)
    assert (done.returncode, "points there" in done.stdout) == (0, False), done.stderr
    (folder / "newest.txt").write_bytes(b"after labfs login\n")
    assert record.stored["newest.txt"] == b"after labfs login\n"
