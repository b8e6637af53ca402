"""The programs that people use, for real: each save is one upload, and nothing else reaches the server."""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import five_stage
import pytest
from places import Place
from stage import Mount, run

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
NOISE = random.Random(7).randbytes(300_000)  # big.bin of the desk
GIT = "git -c user.name=Ada -c user.email=ada@lab.example"


@dataclass(frozen=True)
class Save:
    """A command, run in the mounted directory, that saves `name` once."""

    command: str
    name: str
    before: str = ""  # the local file that is there under that name, if one is
    wanted: str = ""  # a local file with the bytes that it then has
    refused: tuple[str, ...] = ()  # the sites that may refuse it, before anything was sent or removed


EMACS = (
    'emacs -Q --batch --eval \'(progn (setq backup-enable-predicate (lambda (_) t) {more}) (find-file "emacs.txt")'
    ' (goto-char (point-max)) (insert "two\\n") (save-buffer))\''
)
VIM = "vim -es -u NONE -N -c 'set {more} backupskip=' -c 'normal otwo' -c wq vim.txt"
NANO = "{python3} {here}/typist.py 'two\\r|\\x0f|\\r|\\x18' nano {more} nano.txt"
QT = (
    '{office} -c \'from PySide6.QtCore import QIODevice, QSaveFile; f = QSaveFile("qt.txt");'
    ' f.open(QIODevice.OpenModeFlag.WriteOnly); f.write(b"one\\ntwo\\n"); assert f.commit()\''
)
RSYNC = "cp {desk}/big.bin {desk}/{name}; rsync -a {more} {desk}/{name} ."
OFFICE = "soffice --headless -env:UserInstallation=file://{desk}/office"

SAVES = {
    "emacs": Save(EMACS, "emacs.txt", "text.txt"),
    "emacs-copy": Save(EMACS.replace("{more}", "backup-by-copying t"), "emacs.txt", "text.txt"),
    "vim": Save(VIM.format(more="backup backupcopy=no"), "vim.txt", "text.txt"),
    "vim-copy": Save(VIM.format(more="writebackup backupcopy=yes"), "vim.txt", "text.txt"),
    "vim-auto": Save(VIM.format(more="writebackup backupcopy=auto"), "vim.txt", "text.txt"),
    "nano": Save(NANO.replace("{more}", ""), "nano.txt", "text.txt"),
    "nano-backup": Save(NANO.replace("{more}", "-B"), "nano.txt", "text.txt"),
    "sed-backup": Save("sed -i~ s/one/two/ sed.txt", "sed.txt", "text.txt"),
    "rsync-inplace": Save("cp {desk}/big.bin {desk}/in.bin; rsync -a --inplace --no-whole-file {desk}/in.bin .", "in.bin", "half.bin", "big.bin"),
    "rsync-over": Save("cp {desk}/big.bin {desk}/over.bin; rsync -a {desk}/over.bin .", "over.bin", "half.bin", "big.bin"),
    "cp-reflink": Save("cp --reflink=auto -a {desk}/big.bin cp.bin", "cp.bin", "", "big.bin"),
    "tar": Save("tar xf {desk}/t.tar --transform s/big/tar/ big.bin", "tar.bin", "", "big.bin"),
    "unzip": Save("unzip -q -o {desk}/t.zip", "unzipped.txt"),
    "curl": Save("curl -sS -o curl.bin {web}/big.bin", "curl.bin", "", "big.bin"),
    "wget": Save("wget -q -O wget.bin {web}/big.bin", "wget.bin", "", "big.bin"),
    "wget-continue": Save("ln {desk}/big.bin {desk}/part.bin; wget -q -c {web}/part.bin", "part.bin", "half.bin", "big.bin"),
    "copy2": Save("{python} -c 'import shutil; shutil.copy2(\"{desk}/big.bin\", \"copy2.bin\")'", "copy2.bin", "", "big.bin"),
    "move": Save("cp {desk}/big.bin {desk}/m; {python} -c 'import shutil; shutil.move(\"{desk}/m\", \"moved.bin\")'", "moved.bin", "", "big.bin"),
    "pandas": Save("{python} -c 'import pandas; pandas.DataFrame(dict(a=range(20000))).to_csv(\"pandas.csv\")'", "pandas.csv"),
    "h5py": Save("{python} -c 'import h5py; f = h5py.File(\"late.h5\", \"a\"); f[\"late\"] = range(1000); f.close()'", "late.h5", "early.h5"),
    "soffice-convert": Save(OFFICE + " --convert-to odt:writer8 --outdir . {desk}/text.txt", "text.odt"),
    "soffice-convert-over": Save("cp {desk}/text.txt {desk}/over.txt; " + OFFICE + " --convert-to odt:writer8 --outdir . {desk}/over.txt", "over.odt", "text.txt"),
    "soffice-save": Save("/usr/bin/python3 {here}/saves_uno.py saved.odt {desk}/office", "saved.odt", "text.odt"),
    "gio-copy": Save("gio copy {desk}/big.bin gio.bin", "gio.bin", "", "big.bin"),
    "gio-copy-over": Save("gio copy {desk}/big.bin again.bin", "again.bin", "half.bin", "big.bin"),
    "zip-update": Save("zip -q -u -j z.zip {desk}/text.txt", "z.zip", "t.zip"),
    "perl": Save("perl -pi -e s/one/two/ perl.txt", "perl.txt", "text.txt"),
    "unzip-over": Save("unzip -q -o {desk}/t.zip", "unzipped.txt", "text.txt"),
    "tar-over": Save("tar xf {desk}/t.tar --transform s/big/untarred/ big.bin", "untarred.bin", "half.bin", "big.bin"),
    "move-over": Save("cp {desk}/big.bin {desk}/mv.bin; mv {desk}/mv.bin .", "mv.bin", "half.bin", "big.bin"),
    "install-over": Save("install -m 644 {desk}/big.bin placed.bin", "placed.bin", "half.bin", "big.bin"),
    "rsync-partial-dir": Save(RSYNC.replace("{more}", "--partial-dir=.rsync-partial"), "partial.bin", "", "big.bin"),
    "rsync-partial-dir-over": Save(RSYNC.replace("{more}", "--partial-dir=.rsync-partial"), "partial2.bin", "half.bin", "big.bin"),
    "rsync-delay-updates": Save(RSYNC.replace("{more}", "--delay-updates"), "late.bin", "half.bin", "big.bin"),
    "rsync-append-verify": Save(RSYNC.replace("{more}", "--append-verify"), "append.bin", "half.bin", "big.bin"),
    "samtools-sort": Save("samtools sort -m 1M -T tmpsort -o sorted.bam {desk}/reads.sam", "sorted.bam"),
    "qt-new": Save(QT, "qt.txt"),
    "qt": Save(QT, "qt.txt", "text.txt"),
    "mktemp-then-move": Save("t=$(mktemp -p .) && cat {desk}/big.bin > $t && mv $t meant.bin", "meant.bin", "", "big.bin"),
    "gio-save": Save("gio save gedit.txt < {desk}/big.bin", "gedit.txt", "text.txt", "big.bin"),
}  # fmt: skip


def prepared(name: str, desk: Path, python: Path) -> Path:
    """Return the local file of that name, made if need be."""
    made = desk / name
    if name == "reads.sam":
        made.write_text(alignments(40_000))
    if name == "early.h5":
        code = f"import h5py; f = h5py.File('{made}', 'w'); f['early'] = range(1000); f.close()"
        subprocess.run([python, "-c", code], check=True)
    if name == "text.odt":
        run(f"{OFFICE.format(desk=desk)} --convert-to odt:writer8 --outdir {desk} {desk}/text.txt", timeout=120)
    return made


def alignments(number: int) -> str:
    """Return reads in no order, as SAM."""
    chance = random.Random(3)
    head = "@HD\tVN:1.6\n@SQ\tSN:chr1\tLN:1000000\n"
    rows = (
        f"r{i}\t0\tchr1\t{chance.randrange(1, 900_000)}\t60\t50M\t*\t0\t0\t{'ACGTG' * 10}\t{'I' * 50}"
        for i in range(number)
    )
    return head + "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", SAVES)
def test_a_save_is_one_upload(name: str, place: Place, desk: Path, python: Path, office: Path, web: str) -> None:
    save = SAVES[name]
    if save.before:
        # A name of its own for each test; one that other tests saved is there already.
        (place.path / save.name).write_bytes(prepared(save.before, desk, python).read_bytes())
    elif save.name in place.names() and place.site != "basespace":
        (place.path / save.name).unlink()
    if "reads.sam" in save.command:
        prepared("reads.sam", desk, python)
    before, held = place.names(), place.stored()
    place.reset()
    given = {"desk": desk, "here": HERE, "python": python, "office": office, "python3": sys.executable, "web": web,
             "name": save.name, "more": ""}  # fmt: skip
    command = save.command
    for word, value in given.items():
        command = command.replace(f"{{{word}}}", str(value))

    done = run(command, place.path, timeout=120)

    if done.returncode != 0 and place.site in save.refused:
        assert (place.uploads(), place.names(), place.stored()) == (0, before, held), done.stderr
        return
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert place.uploads() == 1
    assert set(place.names() - before) <= {save.name}, "nothing else is on the server"
    saved = place.stored()[save.name]
    assert saved == (place.path / save.name).read_bytes()
    if save.wanted:
        assert saved == (desk / save.wanted).read_bytes()
    assert_sound(name, save.name, saved or b"", desk, python)


def assert_sound(name: str, document: str, saved: bytes, desk: Path, python: Path) -> None:
    """What was saved is what a reader of such files finds in it."""
    copy = desk / f"saved-{document}"
    copy.write_bytes(saved)
    match name.split("-")[0]:
        case "emacs" | "vim":
            assert saved == b"one\ntwo\n"
        case "nano":
            assert saved == b"two\none\n"
        case "sed" | "perl":
            assert saved == b"two\n"
        case "qt":
            assert saved == b"one\ntwo\n"
        case "zip":
            with zipfile.ZipFile(copy) as archive:
                assert archive.testzip() is None
                assert archive.namelist() == ["unzipped.txt", "text.txt"]
        case "samtools":
            assert run(f"samtools quickcheck {copy} && samtools view -c {copy}").stdout == "40000\n"
        case "unzip":
            assert saved == b"one\n" * 100
        case "pandas":
            assert saved.count(b"\n") == 20_001 and saved.endswith(b"19999,19999\n")
        case "h5py":
            code = f"import h5py; f = h5py.File('{copy}'); assert sum(f['late']) == sum(f['early']) == 499500"
            assert subprocess.run([python, "-c", code]).returncode == 0
        case "soffice":
            text = zipfile.ZipFile(copy).read("content.xml")
            assert b"one" in text and (b"added" in text) is (name == "soffice-save")


def test_shutil_copytree_is_an_upload_a_file(lab: five_stage.Lab, drive: Mount, desk: Path, python: Path) -> None:
    place = Place(lab, "basespace", drive.path / lab.places["basespace"])
    (desk / "tree" / "in").mkdir(parents=True)
    (desk / "tree" / "a").write_text("a")
    (desk / "tree" / "in" / "b").write_text("b")
    place.reset()
    done = run(f'{python} -c \'import shutil; shutil.copytree("{desk}/tree", "tree")\'', place.path)
    assert (done.returncode, place.uploads()) == (0, 2), done.stderr
    assert {name: data for name, data in place.stored().items() if name.startswith("tree")} == {
        "tree/a": b"a", "tree/in/b": b"b",
    }  # fmt: skip


def wheel(desk: Path) -> Path:
    """Make a package of nothing, so that no index is asked."""
    made = desk / "wheels" / "nothing-1.0-py3-none-any.whl"
    made.parent.mkdir()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("nothing.py", "")
        archive.writestr("nothing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        archive.writestr(
            "nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("nothing-1.0.dist-info/RECORD", "")
    return made


def test_pip_download_is_one_upload(place: Place, desk: Path, python: Path) -> None:
    made, before = wheel(desk), place.names()
    place.reset()
    done = run(
        f"{python} -m pip download -q --disable-pip-version-check --no-index -f {made.parent} -d . nothing", place.path
    )
    assert (done.returncode, place.uploads()) == (0, 1), done.stderr
    assert set(place.names() - before) == {made.name}
    assert place.stored()[made.name] == made.read_bytes()


def test_git_clones_into_the_mount_and_commits_there(lab: five_stage.Lab, drive: Mount, desk: Path) -> None:
    """BaseSpace neither renames nor deletes: git needs neither, since what it is still writing stays here."""
    place = Place(lab, "basespace", drive.path / lab.places["basespace"])
    run(f"git init -q {desk}/source && cd {desk}/source && echo one > poetry.lock && git add . && {GIT} commit -qm one")
    done = run(f"git clone -q {desk}/source code && cd code && echo two >> poetry.lock && {GIT} commit -qam two"
               " && git fsck --strict && git status --porcelain && git log --format=%s", place.path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["two", "one"]
    names = {name.removeprefix("code/") for name in place.stored() if name.startswith("code/")}
    assert {"poetry.lock", ".git/HEAD", ".git/index", ".git/refs/heads/master"} <= names
    assert not [name for name in names if name.startswith(".git/") and ("lock" in name or "tmp_" in name)]
    assert place.stored()["code/poetry.lock"] == b"one\ntwo\n"


def test_git_works_in_the_repository_of_redcap(lab: five_stage.Lab, drive: Mount, desk: Path) -> None:
    shelf = drive.path / "redcap" / "empty" / ".repository" / "git here"
    shelf.mkdir()
    run(f"git init -q {desk}/source && cd {desk}/source && echo one > a && git add . && {GIT} commit -qm one")
    commands = f"git clone -q {desk}/source code && cd code && echo two >> a && {GIT} commit -qam two"
    done = run(commands, shelf, timeout=200)
    assert done.returncode == 0, done.stderr
    names = {row["name"] for row in lab.redcap.rows("SELECT name FROM redcap_documents")}
    assert {"HEAD", "COMMIT_EDITMSG", "packed-refs"} <= names
    assert not [name for name in names if name.endswith(".lock") or name.startswith("tmp_")]
    drive.refresh(shelf)
    assert run("git fsck --strict && git log --format=%s", shelf / "code").stdout.splitlines() == ["two", "one"]


@pytest.mark.parametrize("place", ["clarity", "odm", "portal"], indirect=True)
def test_git_is_refused_where_directories_cannot_be_made(place: Place, desk: Path) -> None:
    before = place.names()
    run(f"git init -q {desk}/source")
    done = run(f"git clone -q {desk}/source code", place.path)
    assert done.returncode != 0
    assert any(words in done.stderr for words in ("could not create", "Invalid argument")), done.stderr
    assert place.names() == before


def test_gio_renames_where_the_system_does_and_is_refused_elsewhere(place: Place) -> None:
    for name in {"first.txt", "second.txt"} & set(place.names()):
        (place.path / name).unlink()
    (place.path / "first.txt").write_text("bytes")
    place.reset()
    done = run("gio rename first.txt second.txt", place.path)
    assert place.uploads() == 0
    assert (done.returncode == 0) is (place.site == "portal"), done.stderr
    assert place.stored()["second.txt" if done.returncode == 0 else "first.txt"] == b"bytes"
    assert (place.path / "second.txt").exists() is (done.returncode == 0)


def test_gio_trash_is_refused_and_the_file_stays(place: Place) -> None:
    """A mount's trash would be at its root, where only the configuration adds anything: nothing is lost by a key."""
    (place.path / "kept.txt").write_text("bytes")
    names = place.names()
    done = run("gio trash kept.txt", place.path)
    assert done.returncode != 0
    assert place.stored()["kept.txt"] == b"bytes"
    assert place.names() == names


@pytest.mark.parametrize("place", ["basespace", "portal"], indirect=True)
def test_thunar_copies_renames_and_throws_away(place: Place, desk: Path, screen: str) -> None:
    parcel = desk / "parcel"
    parcel.mkdir()
    (parcel / f"{place.site}.bin").write_bytes(NOISE)
    for name in {"first.txt", "second.txt"} & set(place.names()):
        if place.site == "portal":
            (place.path / name).unlink()
    (place.path / "first.txt").write_text("bytes")
    (place.path / "kept.txt").write_text("bytes")
    before = place.names()
    place.reset()
    run(f"DISPLAY={screen} dbus-run-session -- timeout 90 bash {HERE}/thunar.sh {parcel} '{place.path}'", timeout=100)
    assert place.uploads() == 1
    stored = place.stored()
    assert stored[f"{place.site}.bin"] == NOISE
    assert stored["kept.txt"] == b"bytes", "it offers to delete, and is told not to"
    renamed = "second.txt" if place.site == "portal" else "first.txt"
    assert stored[renamed] == b"bytes"
    assert set(place.names() - before) <= {f"{place.site}.bin", renamed}
