"""The secrets search: every failure provoked with all logging on, and no secret in anything that people can see."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, quote_plus

import echo_stage
import five_stage
import pytest
from echo_stage import PASSING, SPOILS, Front
from five_stage import SITES, Lab
from stage import Mount, Sandbox, labfs, mounted, run

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]

WRITTEN = {"401", "400", "403", "no address"}  # what a save is told at once; the others are tried for long


def secrets_of(sandbox: Sandbox) -> set[str]:
    """Return all that opens something. Whoever adds another kind of secret, such as a proxy's password, adds it here."""
    known = json.loads((sandbox.directory / "sandbox.json").read_text())["credentials"]
    found = {known[site]["token"] for site in ("basespace", "odm", "portal")} | {known["basespace"]["client_secret"]}
    return found | {known["clarity"]["password"], *known["redcap"]["tokens"].values()}


def forms(secret: str) -> set[str]:
    """Return what a secret looks like on its way, worked out here without the product's own list."""
    raw = secret.encode()
    pairs = [base64.b64encode(b"apiuser:" + raw).decode().rstrip("="), base64.b64encode(raw).decode().rstrip("=")]
    return {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], raw.hex(), *pairs}


class Evidence:
    """All texts that were seen, by where."""

    def __init__(self, secrets: set[str]) -> None:
        self._forms = {form.encode() for secret in secrets for form in forms(secret)}
        self.seen: list[tuple[str, bytes]] = []

    def add(self, where: str, text: str | bytes) -> None:
        self.seen.append((where, text.encode(errors="surrogateescape") if isinstance(text, str) else text))

    def found(self) -> list[str]:
        """Return where there is a secret, or a signed address."""
        signed = re.compile(rb"(?:Signature|X-Amz-Credential|AWSAccessKeyId)=(?!\xe2\x80\xa6)", re.IGNORECASE)
        return [
            f"{where}: {text[:300]!r}"
            for where, text in self.seen
            if any(form in text for form in self._forms) or (signed.search(text) and not where.startswith("state"))
        ]


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        for site in SITES:
            made.put(site, "there.txt", b"what is there\n")
        yield made


@pytest.fixture(scope="module")
def front(lab: Lab) -> Iterator[Front]:
    known = json.loads((lab.sandbox.directory / "sandbox.json").read_text())["sites"]
    with echo_stage.opened({site: known[site] for site in SITES}) as made:
        yield made


def through(lab: Lab, front: Front, path: Path, scheme: str = "http") -> Path:
    """Write a configuration whose sites are behind the front."""
    known = json.loads((lab.sandbox.directory / "sandbox.json").read_text())["sites"]
    text = lab.sandbox.config.read_text()
    for site in SITES:
        text = text.replace(known[site], f"{scheme}://{front.urls[site]}")
    path.write_text(text.replace("access =", "timeout_s = 1.5\naccess ="))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def drive(lab: Lab, front: Front, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    base = tmp_path_factory.mktemp("secrets")
    mount = Mount(base, through(lab, front, base / "labfs.toml"))
    try:
        yield mount.start()
    finally:
        front.cast = {}
        mount.clean_up()


def casts() -> Iterator[dict[str, str]]:
    """Yield what befalls the sites: what is told at once all of them, what is tried again each another."""
    yield from (dict.fromkeys(SITES, spoil) for spoil in SPOILS if spoil not in PASSING)
    for turn in range(0, len(PASSING), 4):
        yield {site: PASSING[(turn + number) % len(PASSING)] for number, site in enumerate(SITES)}  # in order


def provoke(place: Path, spoil: str) -> str:
    """Look, read and save while answers are spoiled; return what was said on the terminal."""
    commands = [f"ls -la '{place}'", f"cat '{place}/there.txt'"]
    if spoil not in PASSING:
        commands.append(f"cat '{place}/../.meta.json'")
    if spoil in WRITTEN:
        commands.append(f"echo new > '{place}/saved {spoil}.txt'")
    return str(run("; ".join(commands)).stderr)


def test_nothing_that_people_see_holds_a_secret(lab: Lab, front: Front, drive: Mount) -> None:
    evidence = Evidence(secrets_of(lab.sandbox))
    places = {site: drive.path / lab.places[site] for site in SITES}
    for place in places.values():
        assert (place / "there.txt").read_bytes() == b"what is there\n"
    with ThreadPoolExecutor() as pool:
        for cast in casts():
            drive.refresh(drive.path)
            front.cast = cast
            said = list(pool.map(provoke, places.values(), cast.values()))
            front.cast = {}
            assert any(said), f"{cast}: nothing failed"
            evidence.add(f"terminal {cast}", "\n".join(said))
        lab.sandbox.faults(*({"service": "blobs", "action": action, "times": None} for action in ("reset", "status")))
        for place in places.values():
            evidence.add("terminal blobs", run(f"cat '{place}/there.txt'").stderr)
        lab.sandbox.faults()
    for name, place in places.items():
        for path in (place, place / "there.txt", place / "saved 401.txt"):
            evidence.add(f"why {name}", str(drive.ask(op="why", path=f"/{path.relative_to(drive.path)}")))
            for attribute in ("error", "url", "version", "id"):
                done = run(f"getfattr --only-values -n user.labfs.{attribute} '{path}'")
                evidence.add(f"xattr {name}", done.stdout + done.stderr)
    for command in (
        ("status", "--json"),
        ("status",),
        ("outbox", "list"),
        ("sites", "-c", drive.path.parent / "labfs.toml"),
        ("doctor", "-c", drive.path.parent / "labfs.toml", "--bundle", drive.path.parent / "bundle.zip"),
    ):
        done = labfs(*command, env=drive.env)
        evidence.add(" ".join(map(str, command)), done.stdout + done.stderr)
    front.cast = dict.fromkeys(SITES, "401")
    done = labfs(
        "doctor", "-c", drive.path.parent / "labfs.toml", "--bundle", drive.path.parent / "401.zip", env=drive.env
    )
    front.cast = {}
    assert done.returncode == 1
    evidence.add("doctor 401", done.stdout + done.stderr)
    for bundle in ("bundle.zip", "401.zip"):
        with zipfile.ZipFile(drive.path.parent / bundle) as archive:
            for name in archive.namelist():
                evidence.add(f"{bundle} {name}", archive.read(name))
    evidence.add("ps", Path(f"/proc/{drive.pid}/cmdline").read_bytes())
    evidence.add("log", drive.log)
    for path in drive.state.rglob("*"):
        if path.is_file() and not path.is_socket():
            evidence.add(f"state {path.name}", path.read_bytes())
    assert "…" in drive.log, "nothing was quoted: the search proves nothing"
    assert "-> 200" in drive.log, "not all logging is on"
    assert evidence.found() == []


def test_a_crash_leaves_no_core(drive: Mount, tmp_path: Path) -> None:
    process = Path(f"/proc/{drive.pid}")
    (line,) = [line for line in (process / "limits").read_text().splitlines() if "core file" in line]
    assert line.split()[-3:-1] == ["0", "0"]
    assert int((process / "coredump_filter").read_text(), 16) == 0
    core = "from labfs.daemon.daemon import _leave_no_core; _leave_no_core(); import os; os.abort()"
    command = f"ulimit -c unlimited; exec {sys.executable} -c '{core}'"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ, check=False, capture_output=True)
    assert done.returncode == -signal.SIGABRT
    assert not list(tmp_path.iterdir())
    assert mounted(drive.path)


def test_a_mount_that_cannot_begin_says_no_secret(lab: Lab, front: Front, tmp_path: Path) -> None:
    evidence = Evidence(secrets_of(lab.sandbox))
    mount = Mount(tmp_path, tmp_path / "labfs.toml")
    tried = [
        ("https", {}, []),
        ("http", dict.fromkeys(SITES, "401"), []),
        ("http", dict.fromkeys(SITES, "400"), ["-f"]),
    ]
    for scheme, cast, options in tried:
        front.cast = cast
        file = through(lab, front, tmp_path / "labfs.toml", scheme)
        done = labfs("mount", "-c", file, *options, mount.path, env=mount.env)
        assert done.returncode == 1
        evidence.add("terminal", done.stdout + done.stderr)
    front.cast = {}
    evidence.add("log", mount.log)
    assert evidence.found() == []


# -- secrets as people have them -----------------------------------------------------------------------------------

PASSWORD = "Prüfung-Größe"  # of a server that reads Latin-1


@pytest.fixture(scope="module")
def windows(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount whose secrets come from an env file of Windows, one from a file that its editor marked."""
    base = tmp_path_factory.mktemp("windows")
    text, dirty = lab.sandbox.config.read_text(), {}
    for number, secret in enumerate(sorted(secrets_of(lab.sandbox))):
        dirty[f"DIRTY_{number}"] = f"{PASSWORD if 'clarity' in secret else secret} \t\r"
        text = text.replace(json.dumps(secret), f'{{ env = "DIRTY_{number}" }}')
    token = base / "token"
    token.write_bytes(f"\ufeff{lab.sandbox.token}\r\n".encode())
    token.chmod(0o600)
    parts = text.partition("[sites.clarity]")
    (base / "labfs.toml").write_text(
        re.sub(r"token = \{ env[^}]*\}", f'token = {{ file = "{token}" }}', parts[0]) + parts[1] + parts[2]
    )
    (base / "labfs.toml").chmod(0o600)
    lab.clarity.switch(basic="latin-1", password=PASSWORD)
    lab.sandbox.reset()
    mount = Mount(base, base / "labfs.toml")
    mount.env |= dirty
    try:
        yield mount.start()
    finally:
        lab.clarity.switch(basic="utf-8", password="")
        mount.clean_up()


@pytest.mark.parametrize("site", SITES)
def test_white_space_around_secrets_goes(lab: Lab, windows: Mount, site: str) -> None:
    assert (windows.path / lab.places[site] / "there.txt").read_bytes() == b"what is there\n"


def test_a_server_that_reads_latin_1_is_asked_once_more(lab: Lab, windows: Mount) -> None:
    os.listdir(windows.path / lab.places["clarity"])
    refused = [row for row in lab.sandbox.report()["requests"] if (row["service"], row["status"]) == ("clarity", 401)]
    assert [row["count"] for row in refused] == [1]


def test_a_token_that_spoils_meanwhile_is_told_by_its_key(lab: Lab, windows: Mount) -> None:
    token, place = windows.path.parent / "token", windows.path / lab.places["basespace"]
    before = token.read_bytes()
    token.write_bytes(before.replace(b"-", "\u200b-".encode(), 1))
    windows.refresh(windows.path / "basespace")
    with pytest.raises(OSError, match="Permission denied"):
        (place / "new.txt").write_bytes(b"x")
    reason = json.dumps(windows.ask(op="status")["errors"])
    assert "sites.basespace.token holds an invisible character" in reason
    assert lab.sandbox.token not in reason + windows.log
    token.write_bytes(before)
    (place / "new.txt").write_bytes(b"x")


def test_an_invisible_character_ends_no_mount_with_a_traceback(lab: Lab, tmp_path: Path) -> None:
    text = lab.sandbox.config.read_text().replace(lab.sandbox.token, f"{lab.sandbox.token}\u200b")
    (tmp_path / "labfs.toml").write_text(text)
    (tmp_path / "labfs.toml").chmod(0o600)
    done = labfs("mount", "-c", tmp_path / "labfs.toml", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "sites.basespace.token holds an invisible character (U+200B)" in done.stderr
    assert lab.sandbox.token not in done.stderr
