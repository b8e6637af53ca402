"""Real programs that save through a draft, that remove a file to make it anew, or that are killed: in each system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import five_stage
import pytest
from places import SITES, Place
from player import Player
from stage import Mount, Sandbox, run, until

from scripts import SCRIPTS

pytestmark = pytest.mark.mount

SPILL = """
import os, sys
prefix, out = sys.argv[2], sys.argv[4]
for number in range(3):
    fd = os.open(f"{prefix}.{number:04}.bam", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(fd, b"part %d" % number)
    os.close(fd)
parts = [open(f"{prefix}.{number:04}.bam", "rb").read() for number in range(3)]
open(out, "wb").write(b"".join(parts))
for number in range(3):
    os.unlink(f"{prefix}.{number:04}.bam")
"""
TORN = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | int(sys.argv[2]), 0o666)
os.write(fd, b"half")
print("wrote", flush=True)
{after}
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[five_stage.Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture(scope="module")
def mount(lab: five_stage.Lab, running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    made = Mount(tmp_path_factory.mktemp("drafts"), running.config)
    try:
        yield made.start()
    finally:
        made.clean_up()


@pytest.fixture(params=SITES)
def place(request: pytest.FixtureRequest, lab: five_stage.Lab, mount: Mount) -> Place:
    return Place(lab, request.param, mount.path / lab.places[request.param])


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A directory with a newer `doc`, also packed, as `name` says."""
    return tmp_path


def packed(desk: Path, name: str) -> None:
    (desk / name).write_bytes(b"the new text, which is longer")
    run(f"tar cf t.tar '{name}'; echo '{name}' | cpio -o --quiet > t.cpio", desk)
    with zipfile.ZipFile(desk / "t.zip", "w") as archive:
        archive.write(desk / name, name)


REPLACE = {
    "mv": "mv '{desk}/{doc}' .",
    "mv-t": "mv -f -t . '{desk}/{doc}'",
    "tar": "tar xf '{desk}/t.tar'",
    "cpio": "cpio -iu --quiet < '{desk}/t.cpio'",
    "install": "install -m 644 '{desk}/{doc}' .",
    "cp-remove": "cp --remove-destination '{desk}/{doc}' .",
    "ln-free": "cp '{desk}/{doc}' '{doc}.tmp' && mv '{doc}.tmp' '{doc}'",
}


@pytest.mark.parametrize("how", REPLACE)
def test_what_removes_a_file_to_make_it_anew_ends_as_cp_over_it(how: str, place: Place, desk: Path) -> None:
    doc = f"{how}.dat"
    packed(desk, doc)
    (place.path / doc).write_bytes(b"old")
    wanted, before = (desk / doc).read_bytes(), place.names()
    place.reset()
    done = run(REPLACE[how].format(desk=desk, doc=doc), place.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert place.uploads() == 1
    assert place.stored()[doc] == wanted
    assert set(place.names()) == set(before)
    assert (place.path / doc).read_bytes() == wanted


def test_a_replacement_that_breaks_off_leaves_the_old_file(place: Place, desk: Path) -> None:
    doc = "broken.dat"
    (place.path / doc).write_bytes(b"old")
    before = place.names()
    (desk / "break.py").write_text(
        "import ctypes, os, sys\nopen('/proc/self/comm', 'w').write('unzip')\nos.unlink(sys.argv[1])\n"
    )
    assert run(f"{sys.executable} '{desk}/break.py' {doc}", place.path).returncode == 0
    assert (place.path / doc).read_bytes() == b"old"
    assert doc in os.listdir(place.path)
    assert place.names() == before


def test_a_plain_removal_is_refused_or_done(place: Place) -> None:
    doc = "removed.dat"
    (place.path / doc).write_bytes(b"old")
    done = run(f"rm {doc}", place.path)
    if done.returncode:
        assert "Operation not permitted" in done.stderr
        assert place.stored()[doc] == b"old"
    else:
        assert doc not in place.names()


def test_a_programs_own_files_are_not_sent(place: Place, desk: Path) -> None:
    (desk / "spill.py").write_text(SPILL)
    before = place.names()
    place.reset()
    done = run(f"{sys.executable} '{desk}/spill.py' -T run -o sorted.bam", place.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert place.uploads() == 1
    assert set(place.names() - before) == {"sorted.bam"}
    assert place.stored()["sorted.bam"] == b"part 0part 1part 2"


def test_empty_files_and_temporary_names(place: Place) -> None:
    before = place.names()
    done = run(
        "touch new.txt && t=$(mktemp -p . tmp.XXXXXXXXXX) && echo data > $t && mv $t kept.txt"
        " && t=$(mktemp -p .) && rm $t && echo more > new.txt",
        place.path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(place.names() - before) == {"new.txt", "kept.txt"}
    assert place.stored()["kept.txt"] == b"data\n"
    assert place.stored()["new.txt"] == b"more\n"
    assert {"new.txt", "kept.txt"} <= set(os.listdir(place.path))


def test_rsync_that_is_interrupted_and_resumed(place: Place, desk: Path) -> None:
    doc, size = "partial.bin", 3_000_000
    (desk / doc).write_bytes(os.urandom(size))
    before = place.names()
    place.reset()
    first = f"timeout -s INT 1.2 rsync -a --bwlimit=1000 --partial-dir=.rsync-partial '{desk}/{doc}' ."
    assert run(first, place.path).returncode != 0
    assert place.names() == before, "nothing of it is sent"
    assert run(f"rsync -a --partial-dir=.rsync-partial '{desk}/{doc}' .", place.path).returncode == 0
    assert place.uploads() == 1
    assert set(place.names() - before) == {doc}
    assert place.stored()[doc] == (desk / doc).read_bytes()
    assert not (place.path / ".rsync-partial").exists()


def test_rsync_that_delays_its_updates(place: Place, desk: Path) -> None:
    source = desk / "source"
    source.mkdir()
    for name in ("delayed-1.txt", "delayed-2.txt"):
        (source / name).write_text(name)
    before = place.names()
    place.reset()
    done = run(f"rsync -a --delay-updates '{source}/' .", place.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert place.uploads() == 2
    assert set(place.names() - before) == {"delayed-1.txt", "delayed-2.txt"}


# -- killed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["os.O_TRUNC", "os.O_APPEND"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGSEGV], ids=lambda n: n.name)
def test_what_a_killed_writer_wrote_is_set_aside(
    number: signal.Signals, flags: str, place: Place, desk: Path, mount: Mount
) -> None:
    doc = "killed.dat"
    (place.path / doc).write_bytes(b"complete")
    before = place.names()
    place.reset()
    code = TORN.replace("int(sys.argv[2])", flags).replace("{after}", "import signal; signal.signal(2, signal.SIG_DFL)")
    writer = subprocess.Popen(
        [sys.executable, "-c", code, place.path / doc], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"wrote\n"
    finally:
        writer.send_signal(number)
        writer.communicate(timeout=20)
    until(lambda: (place.path / doc).read_bytes() == b"complete")
    assert place.uploads() == 0
    assert place.names() == before
    kept = [note for note in mount.status()["spool"]["kept"] if note["path"].endswith(f"{place.path.name}/{doc}")]
    assert kept
    assert all("was killed" in note["error"] for note in kept)
    mount.discard()


def test_ctrl_c_in_a_copy(place: Place, desk: Path, mount: Mount) -> None:
    (desk / "big").write_bytes(b"x" * 1000)
    place.reset()
    reader, writer = os.pipe()
    copy = subprocess.Popen(["cp", "/dev/stdin", place.path / "copied.dat"], stdin=reader)
    try:
        os.write(writer, b"x" * 1000)
        until(lambda: (place.path / "copied.dat").stat().st_size == 1000)
    finally:
        copy.send_signal(signal.SIGINT)
        copy.wait(20)
        os.close(writer)
        os.close(reader)
    until(lambda: not (place.path / "copied.dat").exists())
    assert place.uploads() == 0
    mount.discard()


def test_a_program_that_ends_with_a_file_open_has_saved_it(place: Place) -> None:
    done = run(
        f'{sys.executable} -c \'import os; os.write(os.open("ended.dat", 65), b"all"); os._exit(3)\'', place.path
    )
    assert done.returncode == 3
    until(lambda: place.stored().get("ended.dat") == b"all")


@pytest.mark.parametrize("name", ["jupyter", "jetbrains", "office", "perl", "zip-u", "qsavefile-over", "tar-over"])
def test_a_field_that_holds_one_file_takes_saves_through_drafts(
    name: str, lab: five_stage.Lab, mount: Mount, tmp_path: Path
) -> None:
    record, script, doc = lab.redcap.record(), SCRIPTS[name], f"{name}.dat"
    lab.redcap.put("biobank", doc, bytes(script.before or 0), record=record, field="counts")
    mount.refresh(mount.path / "redcap")
    field = mount.path / "redcap" / "biobank" / record / "counts"
    (tmp_path / doc).write_bytes(bytes(script.before or 0))
    Player(field, doc, mounted=True).play(script)
    Player(tmp_path, doc, mounted=False).play(script)
    assert list(lab.redcap.stored(record).values()) == [(doc, (tmp_path / doc).read_bytes())]
    assert os.listdir(field) == [doc]
