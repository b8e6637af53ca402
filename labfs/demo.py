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
    _say("it starts a stand-in of Illumina BaseSpace on this machine and mounts that.")
    try:
        with tempfile.TemporaryDirectory(prefix="labfs-demo-") as temporary, _sandbox(Path(temporary)) as sandbox:
            with _mounted(Path(temporary), sandbox) as guide:
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
    guide.step("Mount the hub. The configuration names the site, its address and where the token is.",
               f"labfs mount -c {sandbox}/labfs.toml {mount}")  # fmt: skip
    try:
        yield guide
    finally:
        done = subprocess.run(
            [sys.executable, "-m", "labfs", "umount", str(mount)], env=env, capture_output=True, text=True
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
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        lines = done.stdout.replace(str(self.mount), "~/lab").replace(str(self._work), "~").splitlines()
        click.echo("\n".join(lines[:LINES]) + ("\n…" if len(lines) > LINES else ""))
        # SIGPIPE: `zcat big | head` ends so, and means well.
        if (done.returncode not in (0, 141)) != fails:
            raise Stopped(f"`{shown}` ended with status {done.returncode}.")
        return done.stdout

    def walk(self) -> None:
        hub = shlex.quote(str(self.mount / "basespace"))
        panel = shlex.quote(str(self.mount / "basespace" / "Tumour panel 2026"))
        large = shlex.quote(str(self.mount / "basespace" / "Large things" / "One large file" / "run42.raw.bin"))
        self.step("Its projects are folders.", f"ls -l {hub}")
        self.step("Records hold the files of analyses and samples, with their true sizes.",
                  f"cd {panel} && find . -type f -printf '%p  %s bytes\\n' | sort | head -12")  # fmt: skip
        self.step("Read a sequencing file: bytes are fetched as they are needed.",
                  f"zcat {panel}/NA12871/Data/Intensities/BaseCalls/*_R1_*.fastq.gz | head -4")  # fmt: skip
        self.step("Search in compressed results with the usual tools.",
                  f"zcat {panel}/*/S1.variants.vcf.gz | grep -v '^#' | head -3; zgrep -c PASS {panel}/*/*.vcf.gz")  # fmt: skip
        self._partial_read(large)
        self.step("Copy a report out, and compare it with the original.",
                  f"cp {panel}/'Variant calls S1'/report.pdf {self._work}/ && cmp {self._work}/report.pdf "
                  f"{panel}/'Variant calls S1'/report.pdf && md5sum {self._work}/report.pdf")  # fmt: skip
        self._save(panel)
        self.step(
            "What the system cannot do is refused, and labfs says why.",
            f"rm {panel}/'Upload here'/plate.csv",
            fails=True,
        )
        self.step("", f"labfs why {panel}/'Upload here'/plate.csv")
        self.step("See what is mounted and what is on its way.", "labfs status")

    def _partial_read(self, large: str) -> None:
        self._control("POST", "reset")
        self.step("A quarter of a gigabyte, of which only the beginning is wanted.",
                  f"ls -lh {large} && head -c 64 {large} | od -A d -t x1 | head -3")  # fmt: skip
        fetched = self._control("GET", "requests")["bytes_out"].get("blobs", 0)
        _say(f"labfs fetched {fetched / 1e6:.1f} MB of the 268 MB.")

    def _save(self, panel: str) -> None:
        upload = f"{panel}/'Upload here'"
        plate = self._work / "plate.csv"
        plate.write_text("well,concentration\n" + "".join(f"A{i:02d},{i * 1.5}\n" for i in range(1, 13)))
        (self._work / "reads.bin").write_bytes(os.urandom(20_000_000))
        self.step("Save: when the copy is done, the hub has the file, and its length and checksum were compared.",
                  f"cp {plate} {upload}/ && cmp {plate} {upload}/plate.csv && ls -l {upload}")  # fmt: skip
        self.step("Edit in place, append: each save is one new version.",
                  f"sed -i s/A01/B01/ {upload}/plate.csv && echo C01,99 >> {upload}/plate.csv && tail -2 {upload}/plate.csv")  # fmt: skip
        self._control("POST", "reset")
        self.step("A large file goes up in parts, each with its checksum.",
                  f"cp {self._work}/reads.bin {upload}/ && cmp {self._work}/reads.bin {upload}/reads.bin && echo identical")  # fmt: skip
        rows = self._control("GET", "requests")["requests"]
        parts = sum(row["count"] for row in rows if row["method"] == "PUT")
        _say(f"The hub received {parts} parts.")

    def _control(self, method: str, what: str) -> Any:
        request = urllib.request.Request(f"{self._known['control']}/{what}", method=method)  # noqa: S310, our own http
        with urllib.request.urlopen(request, timeout=STEP_S) as answer:  # noqa: S310
            return json.load(answer)
