"""The tour: a sandbox, a mount of it, and what a scientist does with ordinary tools, told as it happens."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

STEP_S = 120
LINES = 14  # of a command's output, at most


class Stopped(Exception):
    """A step of the tour did not do what it should."""


def tour(*, keep: bool) -> int:
    """Give the tour; return the exit status. With `keep` the mount stays until Enter is pressed."""
    _say("labfs shows the files of lab systems as ordinary files. This tour needs no account and no network:")
    _say("it starts stand-ins of Illumina BaseSpace and Genestack ODM on this machine and mounts both.")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="labfs-demo-") as temporary,
            _sandbox(Path(temporary)) as sandbox,
            _mounted(Path(temporary), sandbox) as guide,
        ):
            guide.walk()
            if keep:
                click.prompt(f"\nLook around in {guide.mount}; press Enter to end", default="", show_default=False)
    except Stopped as error:
        click.secho(f"\nThe tour stopped: {error}", fg="red", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        _say("\nThe tour was interrupted; everything is unmounted.")
        return 130
    _say("\nUnmounted: every save had reached the hub, and nothing is left behind.")
    _say("Your own site: write ~/.config/labfs/labfs.toml (see README.md), then `labfs mount ~/lab`.")
    return 0


def _say(text: str) -> None:
    click.echo(text)


@contextlib.contextmanager
def _sandbox(directory: Path) -> Iterator[Path]:
    where = directory / "sandbox"
    command = [sys.executable, "-m", "labfs", "sandbox", "--dir", str(where)]
    # A session of its own: Ctrl-C ends the tour, which then unmounts first and stops this last.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("ready"):
            raise Stopped(f"the sandbox did not start: {line.strip()}")
        yield where
    finally:
        process.terminate()
        process.wait(STEP_S)
        process.stdout.close()


@contextlib.contextmanager
def _mounted(directory: Path, sandbox: Path) -> Iterator[_Guide]:
    mount = directory / "lab"
    mount.mkdir()
    env = {**os.environ, "LABFS_STATE_DIR": str(directory / "state")}
    guide = _Guide(mount, sandbox, directory, env)
    guide.step("Mount them. The configuration names each site, its address and where its token is.",
               f"labfs mount -c {sandbox}/labfs.toml {mount}")  # fmt: skip
    try:
        yield guide
    finally:
        done = subprocess.run(
            [sys.executable, "-m", "labfs", "umount", str(mount)], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=False)
    if done.returncode:
        raise Stopped(f"unmounting failed: {done.stderr.strip()}")


class _Guide:
    """Runs the commands of the tour and shows what they say."""

    def __init__(self, mount: Path, sandbox: Path, work: Path, env: dict[str, str]) -> None:
        self.mount = mount
        self._work = work
        self._env = {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
        self._known: dict[str, Any] = json.loads((sandbox / "sandbox.json").read_text())

    def step(self, why: str, command: str, *, fails: bool = False) -> str:
        """Explain and run one shell command; raises Stopped unless it ends as it should."""
        click.echo()
        click.secho(f"# {why}", fg="cyan")
        shown = command.replace(str(self.mount), "~/lab").replace(str(self._work), "~")
        click.secho(f"$ {shown}", bold=True)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], env=self._env, cwd=self._work, timeout=STEP_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        lines = done.stdout.replace(str(self.mount), "~/lab").replace(str(self._work), "~").splitlines()
        click.echo("\n".join(lines[:LINES]) + ("\n…" if len(lines) > LINES else ""))
        # SIGPIPE: `zcat big | head` ends so, and means well.
        if (done.returncode not in (0, 141)) != fails:
            raise Stopped(f"`{shown}` ended with status {done.returncode}.")
        return done.stdout

    def walk(self) -> None:
        hub = self.mount / "basespace"
        panel = shlex.quote(str(hub / "Tumour panel 2026"))
        results = f"{panel}/'Variant calls S1'"
        self.step("Two systems, one tree.", f"ls {self.mount}")
        self.step("The projects of the sequencing hub are folders.", f"ls -l {shlex.quote(str(hub))}")
        self.step(
            "Records hold the files of analyses and samples, with their true sizes.",
            f"cd {panel} && find . -type f -printf '%p  %s bytes\\n' | sort | head -12",
        )
        self.step(
            "Read a sequencing file: bytes are fetched as they are needed.",
            f"zcat {panel}/NA12871/Data/Intensities/BaseCalls/*_R1_*.fastq.gz | head -4",
        )
        self.step("Search in compressed results.", f"zcat {results}/*.vcf.gz | grep -v '^#' | head -3")
        self._partial_read(shlex.quote(str(hub / "Large things" / "One large file" / "run42.raw.bin")))
        self.step(
            "Copy a report out, and compare it with the original.",
            f"cp {results}/report.pdf . && cmp report.pdf {results}/report.pdf && md5sum report.pdf",
        )
        self._save(f"{panel}/'Upload here'")
        self._other_system(shlex.quote(str(self.mount / "odm")))
        self.step("See what is mounted and what is on its way.", "labfs status")

    def _other_system(self, catalogue: str) -> None:
        self.step(
            "The other system is a catalogue of studies; their files lie in folders of their data class.",
            f"cd {catalogue} && find Infant* -type f -printf '%p  %s bytes\\n' | sort | head -8",
        )
        self.step(
            "From one system to the other with cp. ODM takes a file as a job; the copy ends when the job has.",
            f'cd {catalogue} && study=$(ls -d Infant* | head -1) && cp {self._work}/plate.csv "$study/Document/" && '
            'cmp {0}/plate.csv "$study/Document/plate.csv" && ls -l "$study/Document"'.format(self._work),
        )

    def _partial_read(self, large: str) -> None:
        self._control("POST", "reset")
        self.step(
            "A quarter of a gigabyte, of which only the beginning is wanted.",
            f"ls -lh {large} && head -c 64 {large} | od -A d -t x1 | head -3",
        )
        fetched = self._control("GET", "requests")["bytes_out"].get("blobs", 0)
        _say(f"labfs fetched {fetched / 1e6:.1f} MB of the 268 MB.")

    def _save(self, upload: str) -> None:
        plate = f"{upload}/plate.csv"
        rows = "".join(f"A{i:02d},{i * 1.5}\n" for i in range(1, 13))
        (self._work / "plate.csv").write_text(f"well,concentration\n{rows}")
        (self._work / "reads.bin").write_bytes(os.urandom(20_000_000))
        self.step(
            "Save: when the copy is done, the hub has the file, and its length and checksum were compared.",
            f"cp plate.csv {upload}/ && cmp plate.csv {plate} && ls -l {upload}",
        )
        self.step(
            "Edit in place, append: each save is one new version.",
            f"sed -i s/A01/B01/ {plate} && echo C01,99 >> {plate} && head -2 {plate} && tail -1 {plate}",
        )
        self._control("POST", "reset")
        self.step(
            "A large file goes up in parts, each with its checksum.",
            f"cp reads.bin {upload}/ && cmp reads.bin {upload}/reads.bin && echo identical",
        )
        sent = self._control("GET", "requests")["requests"]
        _say(f"The hub received {sum(row['count'] for row in sent if row['method'] == 'PUT')} parts.")
        self.step("What the system cannot do is refused …", f"rm {plate}", fails=True)
        self.step("… and labfs says why.", f"labfs why {plate}")
        self._show_in_the_system()

    def _show_in_the_system(self) -> None:
        """Ask the hub's own interface, without labfs, for what was saved."""
        url, token = self._known["sites"]["basespace"], self._known["credentials"]["basespace"]["token"]
        found = self._get(f"{url}/v1pre3/users/current/projects?Name=Tumour%20panel%202026", token)["Items"][0]["Id"]
        records = self._get(f"{url}/v1pre3/projects/{found}/appresults", token)["Items"]
        number = next(item["Id"] for item in records if item["Name"] == "Upload here")
        click.echo()
        click.secho("# The same files, as the hub itself lists them: every version is still there.", fg="cyan")
        click.secho(f"$ curl …/v1pre3/appresults/{number}/files", bold=True)
        for item in self._get(f"{url}/v1pre3/appresults/{number}/files", token)["Items"]:
            click.echo(f"{item['Id']}  {item['Path']:<12} {item['Size']:>9} bytes  ETag {item['ETag']}")

    def _get(self, url: str, token: str) -> Any:
        request = urllib.request.Request(url, headers={"x-access-token": token})  # noqa: S310, our own http
        with urllib.request.urlopen(request, timeout=STEP_S) as answer:  # noqa: S310
            return json.load(answer)["Response"]

    def _control(self, method: str, what: str) -> Any:
        request = urllib.request.Request(f"{self._known['control']}/{what}", method=method)  # noqa: S310, our own http
        with urllib.request.urlopen(request, timeout=STEP_S) as answer:  # noqa: S310
            return json.load(answer)
