"""`labfs doctor`: each thing that can be in the way is found and has its fix, and a healthy machine has none."""

from __future__ import annotations

import datetime as dt
import json
import os
import ssl
import stat
import subprocess
import tarfile
import time
import zipfile
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from stage import Mount, Sandbox, labfs, typed
from test_sites import answering, http, section, written

from labfs.backend import Entry
from labfs.backends import KINDS
from labfs.daemon import config
from labfs.daemon.setup.servers import ranges
from labfs.http.download import LONGEST_SKIP

SUPPORT = {  # how sizes and bytes are had of each sandbox
    "basespace": "Sizes are in its listings, and versions by a token of its own; ",
    "clarity": "Sizes are told by one small request each, and no versions; files come whole, without ranges.",
    "odm": "Sizes are told by one small request each, and versions by a token of its own; a part of a file can be read",
    "portal": "Sizes are told by one small request each, and versions by a token of its own; a part of a file can be read",
    "redcap": "Sizes are told by the bytes alone, and versions by a token of its own; files come whole, without ranges.",
}


def examined(path: Path, tmp_path: Path, *options: str | Path) -> tuple[int, list[dict[str, str]]]:
    """Return the exit status and the findings."""
    env = {"LABFS_STATE_DIR": str(tmp_path / "state"), "LABFS_CACHE_DIR": str(tmp_path / "kept")}
    done = typed("doctor", "--json", "-c", path, *options, env=env)
    report = json.loads(done.stdout)
    assert report["healthy"] == (done.returncode == 0)
    assert all(finding["fix"] for finding in report["findings"] if finding["level"] == "wrong")
    assert all(finding["sentence"].endswith((".", "?")) for finding in report["findings"]), report["findings"]
    return done.returncode, report["findings"]


def wrong(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    # Another test may leave a dead mount for a moment.
    return [finding for finding in findings if finding["level"] == "wrong" and finding["topic"] != "mounts"]


def test_a_healthy_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.reset()
    _, findings = examined(sandbox.config, tmp_path)
    assert wrong(findings) == []
    for kind in KINDS:
        told = [finding["sentence"] for finding in findings if finding["topic"] == kind]
        assert told[0].startswith("http://127.0.0.1:")
        assert told[1] == "Its clock and this machine's agree."
        assert told[2].startswith("The credentials are accepted, as ")
        assert told[3].startswith("A file may have ")
        assert told[4].startswith(SUPPORT[kind])
    topics = {finding["topic"] for finding in findings}
    assert topics >= {"fuse3", "/dev/fuse", "user_allow_other", "mounts", "state", "cache", "configuration", "keyring"}
    posted = {row["route"] for row in sandbox.report()["requests"] if row["method"] not in ("GET", "HEAD")}
    questions = {route for route in posted if route == "/api/" or route.endswith("/batch/retrieve")}
    assert posted == questions, "something was written"


async def test_a_server_without_ranges_is_told_from_one_with_them(sandbox: Sandbox) -> None:
    """At a file that is too long to be read from its beginning for the sake of its end."""
    record = sandbox.fresh("appresults")
    record.put("small.bin", b"abc")
    size = LONGEST_SKIP + 2
    params, headers = {"name": "large.bin", "multipart": "true"}, {"Content-Type": "application/octet-stream"}
    number = sandbox.api("POST", f"appresults/{record.record}/files", params=params, headers=headers)["Id"]
    part = 5 * 1024 * 1024
    for at in range(0, size, part):
        sandbox.api("PUT", f"files/{number}/parts/{at // part + 1}", content=bytes(min(part, size - at)))
    sandbox.api("POST", f"files/{number}", params={"uploadstatus": "complete"})
    (settings,) = config.load(sandbox.config).only(("basespace",)).sites
    backend = settings.open().backend
    try:
        parent = Entry(id=f"appresults/{record.record}", name="Record", is_dir=True)
        files = {entry.name: entry for entry in (await backend.page(parent, None)).entries}
        assert await ranges(backend, files["large.bin"], size) == "ranges work"
        assert "a part of a file can be read" in await ranges(backend, files["small.bin"], 3)
        sandbox.faults({"service": "blobs", "action": "ignore-range", "times": None})
        assert "this server sends no ranges" in await ranges(backend, files["large.bin"], size)
    finally:
        await backend.aclose()


@pytest.mark.parametrize(("hours", "side"), [(-2, "ahead of"), (3, "behind")])
def test_a_clock_that_is_wrong(tmp_path: Path, hours: int, side: str) -> None:
    date = f"Date: {formatdate(time.time() + 3600 * hours, usegmt=True)}"
    with answering(http("401 Unauthorized", b"{}", date)) as port:
        _, findings = examined(written(tmp_path, section("hub", "odm", f"http://127.0.0.1:{port}")), tmp_path)
    (clock,) = [finding for finding in findings if finding["sentence"].startswith("The clock of")]
    assert f"The clock of this machine is {abs(hours)}.0 hours {side} that of hub" in clock["sentence"]
    assert (clock["level"], "timedatectl" in clock["fix"]) == ("wrong", True)


def test_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    authority.issue_cert("localhost", not_after=ends).configure_cert(context)
    with answering(http("401 Unauthorized", b"{}"), context) as port:
        more = f'ca = "{tmp_path / "ca.pem"}"\n'
        text = section("hub", "odm", f"https://localhost:{port}", more)
        _, findings = examined(written(tmp_path, text), tmp_path)
    told = {finding["sentence"]: finding for finding in findings if finding["topic"] == "hub"}
    assert any(", by TLSv1." in sentence for sentence in told)
    assert told[f"The certificate of hub ends on {ends.astimezone():%d %B %Y}."]["level"] == "note"
    assert "hub tells no time, so that this machine's clock cannot be compared." in told


@pytest.mark.parametrize(
    ("text", "mode", "words", "fix"),
    [
        ("", None, "There is no configuration at", "labfs login NAME --kind KIND --url URL"),
        ('[sites.h]\nkind = "odm"\nurl = "https://127.0.0.1:1"\ntoken = "x"\n', 0o644, "others may read it", "chmod 600"),
        ('[sites.h]\nkind = “odm”\n', 0o600, "Line 2 has typographic quotes", "Correct"),
        ('[sites.h]\nkind = "odm"\nurl = "https://127.0.0.1:1"\ntoken = { env = "NO" }\n', 0o622, "may write", "chmod go-w"),
        ('[sites.h]\nkind = "odm"\nurl = "https://127.0.0.1:1"\ntoken = { env = "NO" }\n', 0o600, "not set", "labfs login h"),
        ("[sites]\n", 0o600, "names no site", "labfs login NAME"),
        ('[cache]\nmib = 1\n[sites.h]\nkind = "odm"\nurl = "https://127.0.0.1:1"\ntoken = "x"\n', 0o600, "from 64", "Correct"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_wrong(tmp_path: Path, text: str, mode: int | None, words: str, fix: str) -> None:
    path = tmp_path / "labfs.toml"
    if mode is not None:
        path.write_text(text)
        path.chmod(mode)
    status, findings = examined(path, tmp_path)
    assert status == 1
    found = [finding for finding in wrong(findings) if words in finding["sentence"]]
    assert [fix in finding["fix"] for finding in found] == [True], wrong(findings)


def test_no_program_to_mount_with_and_no_room(sandbox: Sandbox, tmp_path: Path) -> None:
    """As on a fresh machine: a search path without fusermount3, and a disk for the state that is nearly full."""
    small = tmp_path / "small"
    small.mkdir()
    tiny = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", small], capture_output=True)
    try:
        env = {"PATH": str(tmp_path), "LABFS_STATE_DIR": str(small), "LABFS_CACHE_DIR": str(tmp_path / "kept")}
        done = typed("doctor", "-c", tmp_path / "none.toml", env=env)
    finally:
        if not tiny.returncode:
            subprocess.run(["umount", small], check=True)
    assert done.returncode == 1
    assert "WRONG fuse3            fusermount3 is missing: nothing can be mounted.\n" in done.stdout
    assert "→ sudo apt-get install fuse3" in done.stdout
    if not tiny.returncode:  # only root may
        assert "Make room there, or set LABFS_STATE_DIR" in done.stdout


@pytest.mark.mount
def test_a_dead_mount_is_found_and_a_bundle_tells_of_it_without_secrets(sandbox: Sandbox, tmp_path: Path) -> None:
    mount = Mount(tmp_path, sandbox.config, "--site=basespace")
    pack, tape = tmp_path / "bundle.zip", tmp_path / "bundle.tar.gz"
    try:
        mount.start()
        os.listdir(mount.path / "basespace")
        os.kill(mount.pid, 9)
        done: Any = None
        for _ in range(50):
            done = labfs("doctor", "-c", sandbox.config, "--bundle", pack, env=mount.env)
            if f"{mount.path} was left behind by a labfs that died." in done.stdout:
                break
            pack.unlink()
            time.sleep(0.1)
        assert done.returncode == 1
        assert f"→ labfs umount {mount.path}" in done.stdout
        assert labfs("doctor", "-c", sandbox.config, "--bundle", tape, env=mount.env).returncode == 1
    finally:
        mount.clean_up()
    assert stat.S_IMODE(pack.stat().st_mode) == stat.S_IMODE(tape.stat().st_mode) == 0o600
    with zipfile.ZipFile(pack) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    with tarfile.open(tape) as unpacked:
        assert {name.removeprefix("labfs-bundle/") for name in unpacked.getnames()} == set(files)
    report, told = json.loads(files["report.json"]), json.loads(files["configuration.json"])
    assert {"labfs", "python", "kernel", "pyfuse3"} <= set(report["versions"])
    site = {"kind": "basespace", "url": sandbox.url, "token": "…", "access": "full", "poll_s": 0}
    assert told["sites"]["basespace"] == site
    (log,) = [text for name, text in files.items() if name.startswith("logs/")]
    assert "signed in as Ada Lab" in log
    assert sandbox.token not in "".join(files.values())
    again = labfs("doctor", "-c", sandbox.config, "--bundle", pack, env=mount.env)
    assert (again.returncode, again.stdout) == (1, "")
    assert "is there already; name another file." in again.stderr


def test_a_bundle_shows_no_secret_in_a_wrong_place(tmp_path: Path) -> None:
    """In a comment, as the name of a variable or a file, in the address of a proxy, under a key that is not known."""
    secret = "DISTINCT-a1b2c3d4"
    text = f"""# token = "{secret}"
[sites.hub]
kind = "basespace"
url = "https://127.0.0.1:1/?access_token={secret}"
token = {{ env = "{secret}" }}
tokken = "{secret}"
proxy = "http://user:{secret}@127.0.0.1:1"
[sites.other]
kind = "clarity"
url = "https://user:{secret}@127.0.0.1:1"
username = "{secret}"
password = {{ file = "{secret}" }}
[sites.wrong]
kind = "{secret}"
[other]
key = "{secret}"
"""
    pack = tmp_path / "bundle.zip"
    examined(written(tmp_path, text), tmp_path, "--bundle", pack)
    with zipfile.ZipFile(pack) as archive:
        assert secret not in archive.read("configuration.json").decode()
