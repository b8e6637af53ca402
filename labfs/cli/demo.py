"""The tour: a sandbox, a mount of it, and a scientist's work with ordinary tools, explained step by step.

Each stop is one lab system: list, read, save, and then request the saved file from the system itself, without labfs.

Tests: mount/test_demo.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import signal
import site
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

STEP_S = 120
LINES = 14  # of a command's output, at most
PANEL = "Tumour panel 2026"


class Stopped(Exception):
    """A step of the tour did not do what it should."""


def tour(*, keep: bool) -> int:
    """Give the tour; return the exit status. With `keep` the mount stays until Enter is pressed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # the sandbox is unmounted, however the tour ends
    _say("labfs shows the files of lab systems as ordinary files. This tour needs no account and no network: it")
    _say("starts stand-ins of five lab systems on this machine and mounts them as one drive. ~ is a temporary folder.")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="labfs-demo-", ignore_cleanup_errors=True) as temporary,
            _sandbox(Path(temporary)),
            _mounted(Path(temporary)) as guide,
        ):
            _walk(guide)
            if keep:
                click.prompt(f"\nLook around in {guide.mount}; press Enter to end", default="", show_default=False)
    except Stopped as error:
        return _stopped(str(error))
    except (KeyboardInterrupt, click.Abort):
        _say("\nThe tour was interrupted; everything is unmounted.")
        return 130
    except subprocess.TimeoutExpired as error:
        return _stopped(f"`{error.cmd[-1]}` did not end within {STEP_S} seconds.")
    except (OSError, LookupError, ValueError) as error:
        return _stopped(f"something is not as it should be ({type(error).__name__}: {error}).")
    _say("\nUnmounted: every save had reached its system, and nothing is left behind.")
    _say("Your own site: write ~/.config/labfs/labfs.toml (see README.md), then `labfs mount ~/lab`.")
    return 0


def _say(text: str) -> None:
    click.echo(text)


def _stopped(why: str) -> int:
    click.secho(f"\nThe tour stopped: {why}", fg="red", err=True)
    return 1


@contextlib.contextmanager
def _sandbox(directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "labfs", "sandbox", "--dir", str(directory / "sandbox")]
    # A session of its own: Ctrl-C ends the tour, which unmounts first and stops the sandbox last.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    late = threading.Timer(STEP_S, process.kill)
    late.start()
    try:
        said = process.stdout.readline()
        late.cancel()
        if not said.startswith("ready"):
            raise Stopped(f"the sandbox did not start: {said.strip() or 'it said nothing'}")
        yield
    finally:
        late.cancel()
        process.terminate()
        process.wait(STEP_S)
        process.stdout.close()


@contextlib.contextmanager
def _mounted(directory: Path) -> Iterator[_Guide]:
    guide = _Guide(directory)
    guide.mount.mkdir()
    complaint = ""
    try:
        guide.step("Mount them. The configuration names each site, its address and where its secrets are.",
                   "labfs mount -c sandbox/labfs.toml lab")  # fmt: skip
        yield guide
    finally:
        if _is_mounted(guide.mount):
            guide.leave()
            done = guide.run(f"{shlex.quote(sys.executable)} -m labfs umount lab")
            complaint = done.stdout.strip() if done.returncode else ""
        if _is_mounted(guide.mount):
            subprocess.run(["fusermount3", "-u", "-z", str(guide.mount)], check=False)
    if complaint:
        raise Stopped(f"unmounting failed: {complaint}")


def _is_mounted(path: Path) -> bool:
    """Whether the mount table has a path; does not access the mount, which may not answer."""
    shown = str(path).replace(" ", "\\040")
    return any(line.split()[4] == shown for line in Path("/proc/self/mountinfo").read_text().splitlines())


class _Guide:
    """Runs the commands of the tour in a shell whose home is the tour's directory, and shows their output."""

    def __init__(self, directory: Path) -> None:
        self.home = directory.resolve()
        self.mount = self.home / "lab"
        self._here = self.home
        self._env = {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "PYTHONUSERBASE": site.getuserbase(),  # of the real home
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "LABFS_STATE_DIR": str(self.home / "state"),
            "LABFS_CACHE_DIR": str(self.home / "cache"),
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        }

    def stop_at(self, title: str, *folders: str) -> None:
        """Begin the stop of another system: print a headline, and change to its folder."""
        click.echo()
        click.secho(f"── {title} ".ljust(100, "─"), fg="green", bold=True)
        self._here = self.mount.joinpath(*folders)
        click.secho(f"$ cd ~/{'/'.join(shlex.quote(part) for part in ('lab', *folders))}", bold=True)

    def leave(self) -> None:
        self._here = self.home

    def step(self, why: str, command: str, *, fails: bool = False) -> str:
        """Explain and run one shell command. Raises Stopped for an unexpected exit status."""
        self.explain(why, command)
        done = self.run(command)
        lines = done.stdout.replace(str(self.home), "~").splitlines()
        click.echo("\n".join(lines[:LINES]) + ("\n…" if len(lines) > LINES else ""))
        # 141 is SIGPIPE: `zcat big | head` ends so, which is no failure.
        if (done.returncode not in (0, 141)) != fails:
            raise Stopped(
                f"`{command}` ended with status {done.returncode}: {lines[-1] if lines else 'it said nothing'}"
            )
        return done.stdout

    def explain(self, why: str, command: str = "") -> None:
        click.echo()
        click.secho(f"# {why}", fg="cyan")
        if command:
            click.secho(f"$ {command}", bold=True)

    @property
    def known(self) -> Any:
        """The addresses and credentials that the sandbox wrote to its sandbox.json."""
        return json.loads((self.home / "sandbox" / "sandbox.json").read_text())

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], env=self._env, cwd=self._here, timeout=STEP_S, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace",
        )  # fmt: skip

    def control(self, method: str, what: str) -> Any:
        """Get or reset the counters of the sandbox."""
        return json.loads(_http(method, f"{self.known['control']}/{what}", {}))

    def ask(self, name: str, path: str, headers: dict[str, str], form: dict[str, str] | None = None) -> str:
        """Send a request to a system's own API, without labfs; show the request, and return the answer."""
        url = self.known["sites"][name]
        shown = "".join(f" {key}={value}" for key, value in (form or {}).items() if key != "token")
        click.secho(f"{'POST' if form else 'GET'} {url}/{path}{shown}", bold=True)
        body = urllib.parse.urlencode(form).encode() if form else None
        return _http("POST" if form else "GET", f"{url}/{path}", headers, body)


def _http(method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> str:
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310, our own http
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=STEP_S) as answer:
        return str(answer.read().decode())


# -- the stops ----------------------------------------------------------------------------------------


def _walk(guide: _Guide) -> None:
    rows = "".join(f"A{i:02d},{i * 1.5}\n" for i in range(1, 13))
    (guide.home / "plate.csv").write_text(f"well,concentration\n{rows}")
    (guide.home / "reads.bin").write_bytes(os.urandom(20_000_000))
    guide.step("Five systems, one tree: site/project/record/file.", "ls lab")
    _basespace(guide)
    _save_in_basespace(guide)
    _clarity(guide)
    _odm(guide)
    _portal(guide)
    _redcap(guide)
    guide.leave()
    guide.step("What is mounted, what is on its way, and what failed last and why.", "labfs status")


def _basespace(guide: _Guide) -> None:
    guide.stop_at("BaseSpace Sequence Hub: sequencing runs and analyses", "basespace")
    guide.step("Its projects are folders.", "ls -l")
    guide.step(
        "Analyses and samples are the folders inside; their files have true sizes.",
        f"find '{PANEL}' -type f -printf '%P  %s bytes\\n' | sort | head",
    )
    guide.step(
        "Read a sequencing file: bytes are fetched as they are needed.",
        f"zcat '{PANEL}'/NA12871/Data/Intensities/BaseCalls/*_R1_*.fastq.gz | head -4",
    )
    guide.step("Search in compressed results.", f"zcat '{PANEL}/Variant calls S1'/*.vcf.gz | grep -v '^#' | head -3")
    guide.control("POST", "reset")
    guide.step(
        "A quarter of a gigabyte, of which only the beginning is wanted.",
        "cd 'Large things/One large file' && ls -lh run42.raw.bin && head -c 32 run42.raw.bin | od -A d -t x1",
    )
    fetched = guide.control("GET", "requests")["bytes_out"].get("blobs", 0)
    _say(f"labfs fetched {fetched / 1e6:.1f} MB of the 268 MB.")


def _save_in_basespace(guide: _Guide) -> None:
    guide.stop_at("BaseSpace again: saving", "basespace", PANEL, "Upload here")
    guide.step(
        "When the copy is done, the hub has the file, and its length and checksum were compared.",
        "cp ~/plate.csv . && cmp ~/plate.csv plate.csv && ls -l",
    )
    guide.step(
        "Edit in place, append: each save is one new version.",
        "sed -i s/A01/B01/ plate.csv && echo C01,99 >> plate.csv && head -2 plate.csv && tail -1 plate.csv",
    )
    guide.control("POST", "reset")
    guide.step(
        "A large file goes up in parts, each with its checksum.",
        "cp ~/reads.bin . && cmp ~/reads.bin reads.bin && echo identical",
    )
    sent = guide.control("GET", "requests")["requests"]
    _say(f"The hub received {sum(row['count'] for row in sent if row['method'] == 'PUT')} parts.")
    guide.step("What the system cannot do is refused …", "rm plate.csv", fails=True)
    guide.step("… and labfs says why.", "labfs why plate.csv")
    record = guide.run("labfs info . | sed -n 's/^id  *//p'").stdout.strip()
    headers = {"x-access-token": guide.known["credentials"]["basespace"]["token"]}
    guide.explain("The same folder without labfs, as the hub lists it: every version is still there.")
    for item in json.loads(guide.ask("basespace", f"v1pre3/appresults/{record}/files", headers))["Response"]["Items"]:
        _say(f"{item['Id']}  {item['Path']:<10} {item['Size']:>9} bytes  ETag {item['ETag']}")


def _clarity(guide: _Guide) -> None:
    guide.stop_at("Clarity LIMS: the files of lab work", "clarity", PANEL)
    guide.step(
        "A project holds a folder for each sample, for each step of lab work, and _project for the rest.", "ls -l"
    )
    guide.step(
        "Count the reads of a sample. Clarity hands out files whole, so labfs keeps a copy while one is open.",
        "echo $(($(zcat 'WUY236A1 NA12871'/*_R1_*.fastq.gz | wc -l) / 4)) reads",
    )
    guide.stop_at("Clarity again: saving", "clarity", "Upload here", "KLM300A1 blank-1")
    guide.step(
        "Attach a file to a sample, and correct it: Clarity replaces the bytes and keeps the file's id.",
        "cp ~/plate.csv . && labfs info plate.csv | grep ^id && "
        "sed -i s/A01/B01/ plate.csv && labfs info plate.csv | grep ^id",
    )
    user = guide.known["credentials"]["clarity"]
    pair = base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()
    headers = {"Authorization": f"Basic {pair}"}
    guide.explain("The same sample without labfs: it has one file, and these are the first lines of its download.")
    for limsid in re.findall(
        r'<file:file [^>]*limsid="([^"]+)"', guide.ask("clarity", "api/v2/samples/KLM300A1", headers)
    ):
        lines = guide.ask("clarity", f"api/v2/files/{limsid}/download", headers).splitlines()
        _say("\n".join(lines[:3]))


def _odm(guide: _Guide) -> None:
    guide.stop_at("Open Data Manager: a catalogue of studies", "odm", "Infant gut, 2017")
    guide.step(
        "A study's files lie in folders named after their data class. A slash in a name is written %2F.",
        "find . -type f -printf '%P  %s bytes\\n' | sort | head -8",
    )
    guide.step("Is this really HDF5? The first bytes tell.", "head -c 8 Single-cell*/counts.h5ad | od -c")
    guide.step(
        "From one system to another with cp. ODM takes a file as a job; the copy ends when the job has.",
        f"cp ~/lab/basespace/'{PANEL}/Variant calls S1/qc/metrics.csv' Document/ && ls -l Document",
    )
    study = guide.run("labfs info . | sed -n 's/^id  *//p'").stdout.strip()
    headers = {"Genestack-API-Token": guide.known["credentials"]["odm"]["token"]}
    path = f"api/v1/as-curator/integration/link/files/by/study/{study}"
    guide.explain("The study's files without labfs, as the catalogue lists those of this data class.")
    for item in json.loads(guide.ask("odm", path, headers)):
        if item["Data Class"] == "Document":
            _say(f"{item['genestack:accession']}  {item['genestack:name']:<14} {item['Data Class']}")


def _portal(guide: _Guide) -> None:
    guide.stop_at("Resources Portal: materials that labs share", "portal", "Tumour bank")
    guide.step("An organization's materials are folders; _attachments holds what belongs to none of them.", "ls -1")
    guide.step("Read a table.", "head -3 'Expression after knock-down of TP53/metrics.csv'")
    guide.step(
        "Share a file with a material, and rename it: here the system can.",
        "cp ~/plate.csv pcDNA3-TP53/ && mv pcDNA3-TP53/plate.csv pcDNA3-TP53/yields.csv && ls -l pcDNA3-TP53",
    )
    material = guide.run("labfs info pcDNA3-TP53 | sed -n 's/^id  *//p'").stdout.strip()
    headers = {"Authorization": f"Token {guide.known['credentials']['portal']['token']}"}
    guide.explain("The material without labfs: the portal calls such files sequence maps.")
    for item in json.loads(guide.ask("portal", f"v1/materials/{material}/", headers))["sequence_maps"]:
        _say(f"{item['id']:>5}  {item['filename']:<20} {item['created_at']}")


def _redcap(guide: _Guide) -> None:
    guide.stop_at("REDCap: study records and their upload fields", "redcap", "biobank")
    guide.step("A record's upload fields are folders, and each holds one file at most.", "find 1 | sort")
    guide.step("Read a participant's variants.", "zcat 1/variants/*.vcf.gz | grep -v '^#' | head -3")
    guide.step(
        "Put a file into an empty field of another record.",
        "cp ~/plate.csv 3/pathology_report/ && ls -l 3/pathology_report",
    )
    guide.explain(
        "The record without labfs: REDCap shows the file's name as the value of the field, and hands out its bytes."
    )
    common = {"token": guide.known["credentials"]["redcap"]["tokens"]["biobank"], "format": "json"}
    form = {"content": "record", "records[0]": "3", "fields[0]": "record_id", "fields[1]": "pathology_report"}
    _say(guide.ask("redcap", "api/", {}, {**common, **form}))
    form = {"content": "file", "action": "export", "record": "3", "field": "pathology_report"}
    _say("\n".join(guide.ask("redcap", "api/", {}, {**common, **form}).splitlines()[:3]))
