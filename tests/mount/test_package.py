"""What is built, and the way from it to a drive: the commands that the README prints, in a new environment and home.

Here pip installs labfs alone, and finds all else in the environment of the tests; with LABFS_SOAK it installs everything.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from stage import mounted

import labfs

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parents[2]
SOAK = bool(os.environ.get("LABFS_SOAK"))
SOURCES = ("labfs", "tests", "scripts", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile")
COMMANDS = re.search(r"## The first ten minutes\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
VERSION = labfs.__version__
ORDINARY = "nobody"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that is built from that and nothing else."""
    tree, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    done = subprocess.run([sys.executable, "-c", BUILD_SDIST, dist], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(dist)]
    done = subprocess.run([*wheel, *map(str, dist.glob("*.tar.gz"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dist


def files(suffixes: set[str]) -> set[str]:
    """Return the files of the product with such endings, from the root of the repository."""
    found = (path for path in (ROOT / "labfs").rglob("*") if path.suffix in suffixes or path.name == "py.typed")
    return {str(path.relative_to(ROOT)) for path in found}


PRODUCT = files({".py", ".md"}) - {
    "labfs/shared/README.md",
    "labfs/write/README.md",
    "labfs/write/WINDOWS.md",
}  # these are about the code


def test_the_wheel_holds_the_product_and_its_manual_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name == f"labfs-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        about = {
            name.rpartition("/")[2]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name
        }
    assert names == PRODUCT
    scripts = configparser.ConfigParser()
    scripts.read_string(about["entry_points.txt"])
    assert set(scripts["console_scripts"]) == {"labfs", "mount.fuse.labfs"}
    assert scripts["fsspec.specs"]["labfs"] == "labfs.fsspec.filesystem:LabFileSystem"
    told = Parser().parsestr(about["METADATA"])
    assert (told["Name"], told["Version"], told["License-Expression"]) == ("labfs", VERSION, "MIT")
    assert {"fuse", "fsspec", "sandbox"} <= set(told.get_all("Provides-Extra"))
    needs = [need.partition(";") for need in told.get_all("Requires-Dist")]
    always = {re.match(r"[\w-]+", need)[0] for need, _, when in needs if "extra" not in when}  # type: ignore[index]
    assert "click" in always
    assert not always & {"pyfuse3", "fsspec", "starlette", "pytest", "setuptools"}, "only where they are asked for"
    assert told.get_payload().startswith("# labfs\n")


def test_the_source_distribution_holds_what_a_build_needs_and_no_tests(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", *PRODUCT} <= names
    assert not {name for name in names if name.startswith(("tests", "scripts"))}


# -- from there to a drive -----------------------------------------------------------------------------


class Session:
    """A shell in a new home, which is typed into line by line."""

    def __init__(self, home: Path, dist: Path, user: str | None) -> None:
        self.home = home
        shutil.copytree(dist, home / "dist")
        (home / "dist").chmod(0o755)
        path = f"{Path(sys.base_prefix, 'bin').resolve()}:/usr/bin:/bin"
        env = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", **pip_finds(home / "dist")}
        before: list[str] = []
        if user is not None:
            (home / "view").mkdir()
            shutil.chown(home, user)
            env["PYTHONPATH"] = f"{ROOT / 'scripts'}:{env.get('PYTHONPATH', '')}".rstrip(":")
            before = [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                sys.executable,
                "-m",
                "bench.private",
                user,
                str(home / "view"),
            ]
        self.shell = subprocess.Popen([*before, "bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, cwd="/", env=env, start_new_session=True)  # fmt: skip

    def type(self, command: str) -> str:
        """Return what a command says; one in the background is waited for until it is ready."""
        assert self.shell.stdin is not None
        self.shell.stdin.write(f"{command}\necho status $?\n")
        self.shell.stdin.flush()
        behind = command.partition("#")[0].rstrip().endswith("&")
        said = self._until("status ")
        assert said[-1] == "status 0", (command, said)
        return "\n".join(said[:-1] + (self._until("ready ") if behind and not any(map(_is_ready, said)) else []))

    def _until(self, start: str) -> list[str]:
        assert self.shell.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith(start):
            line = self.shell.stdout.readline()
            assert line and not re.match(r"labfs: |bash: ", line), [*lines, line]
            lines.append(line.rstrip("\n"))
        return lines

    def end(self) -> None:
        """Leave neither a process nor a mount behind, whatever happened."""
        for note in self.home.glob(".local/state/labfs/mounts/*/mount.json"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()
        if mounted(self.home / "lab"):
            subprocess.run(["fusermount3", "-u", "-z", self.home / "lab"], check=False)


def _is_ready(line: str) -> bool:
    return line.startswith("ready ")


def pip_finds(dist: Path) -> dict[str, str]:
    """Return the variables by which `pip install labfs` takes what was built."""
    if SOAK:
        usual = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        return {**usual, "PIP_FIND_LINKS": f"{dist} {usual.get('PIP_FIND_LINKS', '')}".strip()}
    return {"PIP_FIND_LINKS": str(dist), "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_IGNORE_INSTALLED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": sysconfig.get_path("purelib")}  # fmt: skip


@pytest.fixture(params=[ORDINARY, None] if SOAK else [ORDINARY])
def session(request: pytest.FixtureRequest, built: Path) -> Iterator[Session]:
    """As an ordinary user, whom root makes a view of the machine for; with LABFS_SOAK as root, too."""
    with tempfile.TemporaryDirectory(prefix="labfs-home-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        session = Session(Path(name), built, request.param if os.geteuid() == 0 else None)
        try:
            yield session
        finally:
            session.end()


@pytest.mark.timeout(600 if SOAK else 120)
def test_five_commands_of_the_readme_lead_to_a_drive(session: Session) -> None:
    assert COMMANDS is not None
    commands = COMMANDS[1].splitlines()
    assert len(commands) == 5
    for command in commands:
        session.type(command)
    assert session.type("labfs --version") == f"labfs, version {VERSION}"
    where = session.type("cd /; python3 -c 'import labfs; print(labfs.__file__)'")
    assert where.startswith(f"{session.home}/labfs/lib/"), "the one that was installed"
    assert session.type("ls ~/lab").split() == ["basespace", "clarity", "odm", "portal", "redcap"]
    assert session.type("cat ~/lab/portal/_mine/*.txt")
    assert session.type("labfs manual errors").startswith("# labfs-errors(7)")
    assert session.type("labfs umount ~/lab") == f"Unmounted {session.home}/lab."
    session.type("kill %1; wait")
