"""Names that are not UTF-8, from the programs' side: looking for one finds nothing, making one is refused with a reason,
and whoever copies a tree with such names gets all the rest of it across."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import five_stage
import pytest
from five_stage import SITES, Lab
from stage import Folder, Mount, Sandbox, labfs, run

pytestmark = pytest.mark.mount

LATIN = b"gr\xfc\xdfe.txt"  # “grüße” as Windows and old Linuxes wrote it
SURROGATE = b"half \xed\xa0\x80.txt"


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


def fails(code: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == code, caught.value


@pytest.mark.parametrize("site", SITES)
def test_looking_finds_nothing_and_making_is_refused_in_every_system(site: str, drive: Mount, lab: Lab) -> None:
    drive.refresh(drive.path / site)
    place = os.fsencode(drive.path / lab.places[site])
    before = os.listdir(place)
    for name in (LATIN, SURROGATE):
        path = place + b"/" + name
        assert not os.path.lexists(path)
        for look in (os.stat, os.unlink, os.rmdir, os.listdir, os.chdir):
            fails(errno.ENOENT, look, path)
        fails(errno.ENOENT, os.open, path, os.O_RDWR)
        fails(errno.ENOENT, os.rename, path, place + b"/new")
        fails(errno.EILSEQ, os.open, path, os.O_CREAT | os.O_WRONLY)
        fails(errno.EILSEQ, os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        fails(errno.EILSEQ, os.mkdir, path)
        fails(errno.EILSEQ, os.symlink, b"anything", path)
        fails(errno.EILSEQ, os.mkfifo, path)
        with open(place + b"/.f.swp", "wb"):
            fails(errno.EILSEQ, os.rename, place + b"/.f.swp", path)
            fails(errno.EILSEQ, os.link, place + b"/.f.swp", path)
        os.unlink(place + b"/.f.swp")
    assert os.listdir(place) == before


def test_the_reason_is_told_for_the_name_as_it_was_typed(folder: Path, drive: Mount) -> None:
    typed = os.fsdecode(os.fsencode(folder) + b"/" + LATIN)
    assert "Invalid or incomplete multibyte" in run(f"touch '{typed}'").stderr
    told = labfs("why", typed, env=drive.env).stdout
    assert "“gr\\xfc\\xdfe.txt” is not UTF-8" in told
    assert "rename it before you copy it here" in told
    for command in ("info", "refresh"):
        done = labfs(command, typed, env=drive.env)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "gr\\xfc\\xdfe.txt" in done.stderr
    (folder / "f").write_bytes(b"x")
    done = run("ln -s f s; ln f h; mkfifo p", folder)
    assert done.stderr.count("Operation not permitted") == 3
    for name, kind in [("s", "symbolic link"), ("h", "hard link"), ("p", "pipe")]:
        assert kind in labfs("why", folder / name, env=drive.env).stdout


def tree(path: Path) -> set[bytes]:
    """Make a small tree with names that are no text at every level of it; return the paths that can be saved."""
    top = os.fsencode(path)
    for directory in (b"", b"/deep", b"/deep/er", b"/old \xe4"):
        os.makedirs(top + directory, exist_ok=True)
        for name in (b"a.txt", b"z \xc3\xa9.txt", LATIN, SURROGATE):
            with open(top + directory + b"/" + name, "wb") as file:
                file.write(directory + name)
    return {
        directory + b"/" + name for directory in (b"", b"/deep", b"/deep/er") for name in (b"a.txt", "z é.txt".encode())
    }


@pytest.mark.parametrize(
    "tool",
    ["cp -a {0}/. {1}", "rsync -a {0}/ {1}", "rsync -rt --inplace {0}/ {1}", "tar -C {0} -cf - . | tar -C {1} -xf -"],
)
def test_the_rest_of_a_tree_arrives(tool: str, folder: Path, behind: Folder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    expected = tree(source)
    done = subprocess.run(["bash", "-c", tool.format(source, f"'{folder}'")], capture_output=True, timeout=90)
    assert done.returncode != 0
    for name in (b"gr", b"half", b"old"):
        assert name in done.stderr, "each name that was left out is told"
    assert not [line for line in done.stderr.split(b"\n") if b"/a.txt" in line and b"old" not in line], done.stderr
    assert {b"/" + path.encode() for path in behind.stored} == expected
    for path in expected:
        assert behind.stored[path[1:].decode()] == os.path.dirname(path).rstrip(b"/") + os.path.basename(path)
    assert len(behind.paths) == len(expected), "each file is one upload"
