"""The tools that people use, on the mount and on a local directory: the same commands, the same results."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from stage import Folder, Mount, run

pytestmark = pytest.mark.mount

MB = 1_000_000


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.mkdir()
    return path


def same(command: str, folder: Path, local: Path) -> str:
    """Run a command in both directories; return what it printed, which must be the same."""
    there, here = run(command, folder), run(command, local)
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout), there.stderr
    assert here.returncode == 0, here.stderr
    return str(here.stdout)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def fill(path: Path, count: int = 12) -> None:
    """Make a small tree: names with spaces and accents, sizes from 1 byte to 300 kB."""
    for index in range(count):
        folder = path / ("plain" if index % 2 else "größe und form") / str(index % 3)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"datei {index}.txt").write_bytes(noise(1 + index * 25_000, index))


def test_cp_in_and_out(folder: Path, local: Path, behind: Folder) -> None:
    (local / "a").write_bytes(noise(3 * MB))
    assert (
        run(f"cp '{local}/a' '{folder}/a' && cp '{folder}/a' '{local}/b' && cmp '{local}/a' '{local}/b'").returncode
        == 0
    )
    assert behind.stored == {"a": noise(3 * MB)}


@pytest.mark.parametrize("tool", ["cp -a {0}/. {1}", "rsync -a {0}/ {1}", "tar -C {0} -cf - . | tar -C {1} -xf -"])
def test_a_tree_goes_in_and_comes_out_the_same(
    tool: str, folder: Path, local: Path, tmp_path: Path, behind: Folder
) -> None:
    fill(local)
    back = tmp_path / "back"
    back.mkdir()

    went_in = run(tool.format(f"'{local}'", f"'{folder}'"))
    assert (went_in.returncode, went_in.stderr) == (0, "")
    came_out = run(tool.format(f"'{folder}'", f"'{back}'"))
    assert (came_out.returncode, came_out.stderr) == (0, "")

    assert contents(back) == contents(local) == behind.stored
    assert sorted(behind.paths) == sorted(contents(local)), "each file must be one upload"
    grain = 10**9 if tool.startswith("tar") else 1  # tar's format has whole seconds
    dates = {p.name: p.stat().st_mtime_ns // grain for p in local.rglob("*.txt")}
    assert {p.name: p.stat().st_mtime_ns // grain for p in folder.rglob("*.txt")} == dates


def test_rsync_again_sends_nothing(folder: Path, local: Path, sandbox, behind: Folder) -> None:
    fill(local)
    assert run(f"rsync -a '{local}/' '{folder}'").returncode == 0
    sandbox.reset()
    again = run(f"rsync -ai '{local}/' '{folder}'")
    assert again.returncode == 0
    assert not [line for line in again.stdout.splitlines() if line.startswith(("<f", ">f"))]
    assert not [key for key in sandbox.requests() if key.startswith(("POST", "PUT"))]


@pytest.mark.parametrize("size", [1, 511, 4096, 65537, 1_000_003])
def test_dd_with_odd_block_sizes(size: int, folder: Path, local: Path, behind: Folder) -> None:
    (local / "in").write_bytes(noise(2 * MB + 17))
    count = "" if size > 100 else "count=5000"
    command = f"dd if='{local}/in' of=out bs={size} {count} status=none && md5sum out && dd if=out bs={size} status=none | md5sum"
    same(command, folder, local)
    assert behind.stored["out"] == (local / "out").read_bytes()
    assert behind.paths == ["out"]


def test_dd_seeks_and_skips(folder: Path, local: Path) -> None:
    same(
        "dd if=/dev/zero of=f bs=1000 count=5 status=none; printf abc | dd of=f bs=1 seek=2500 conv=notrunc status=none;"
        " printf xyz | dd of=f bs=1 seek=9000 conv=notrunc status=none; md5sum f; stat -c %s f;"
        " dd if=f bs=1 skip=2499 count=5 status=none | od -c",
        folder,
        local,
    )


def test_md5sum_of_300_files(folder: Path, local: Path, behind: Folder, drive: Mount) -> None:
    for index in range(300):
        data = noise(2000 + index, index)
        behind.put(f"{index:03d}.bin", data)
        (local / f"{index:03d}.bin").write_bytes(data)
    drive.refresh(folder)
    assert same("md5sum *.bin", folder, local).count("\n") == 300


def test_find_grep_head_tail(folder: Path, local: Path) -> None:
    for path in (folder, local):
        (path / "deep" / "er").mkdir(parents=True)
        (path / "deep/er/notes.txt").write_text("first line\nTP53 mutated\nlast line\n")
        (path / "deep/big.bin").write_bytes(noise(1_500_000))
        (path / "small.csv").write_text("a,b\n1,2\n")
    same("grep -r TP53 . | sort", folder, local)
    same("find . -type f -size +1000k | sort; find . -type f -size -2 | sort", folder, local)
    same(
        "head -c 100 deep/big.bin | md5sum; tail -c 100 deep/big.bin | md5sum; tail -n 1 deep/er/notes.txt",
        folder,
        local,
    )
    same("find . -type f | sort | xargs wc -c", folder, local)
    same("du -b --apparent-size deep/big.bin | cut -f1; stat -c '%s %F' small.csv; stat -c %F deep", folder, local)


def test_sed_in_place_and_append(folder: Path, local: Path, behind: Folder) -> None:
    same("printf 'one\\ntwo\\n' > f; sed -i s/two/zwei/ f; cat f", folder, local)
    same("echo three >> f; echo four >> f; cat f; ls -A", folder, local)
    assert behind.stored == {"f": b"one\nzwei\nthree\nfour\n"}
    assert behind.paths == ["f"] * 4, "two redirections, one sed and one more redirection: four saves"


def test_grep_reads_what_was_appended(folder: Path, local: Path) -> None:
    same("for i in 1 2 3; do echo line $i >> log; grep -c line log; done", folder, local)


def python(code: str, folder: Path) -> str:
    """Run Python in a directory of the mount; a process of its own, since this one must never hang."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mmap_reads_and_writes(folder: Path, behind: Folder) -> None:
    (folder / "m").write_bytes(noise(3 * MB))
    python(
        "import mmap\n"
        "with open('m', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "    assert m.find(bytes(m[2_000_000:2_000_016])) == 2_000_000\n"
        "    m[10:20] = b'0123456789'; m[-3:] = b'end'; m.flush()\n",
        folder,
    )
    wanted = bytearray(noise(3 * MB))
    wanted[10:20], wanted[-3:] = b"0123456789", b"end"
    assert behind.stored["m"] == wanted


def test_a_map_that_outlives_its_descriptor_is_saved(folder: Path, behind: Folder) -> None:
    (folder / "m").write_bytes(b"." * 10_000)
    python(
        "import ctypes, mmap, os\n"
        "fd = os.open('m', os.O_RDWR)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "at = libc.mmap(None, 10000, 3, 1, fd, 0)\n"
        "os.close(fd)\n"
        "ctypes.memmove(at + 5000, b'late', 4)\n"
        "assert libc.munmap(ctypes.c_void_p(at), 10000) == 0\n",
        folder,
    )
    for _ in range(100):
        if behind.stored["m"][5000:5004] == b"late":
            return
        run("sleep 0.05")
    raise AssertionError("the bytes written through the map never arrived")


def test_zipfile(folder: Path, behind: Folder) -> None:
    python(
        "import zipfile\n"
        "with zipfile.ZipFile('z.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n"
        "    [z.writestr(f'{i}.txt', str(i) * 5000) for i in range(50)]\n"
        "with zipfile.ZipFile('z.zip', 'a') as z: z.writestr('late.txt', 'late')\n"
        "with zipfile.ZipFile('z.zip') as z: assert z.testzip() is None and z.read('7.txt') == b'7' * 5000\n",
        folder,
    )
    target = folder.parent.parent.parent.parent / "copy.zip"
    target.write_bytes(behind.stored["z.zip"])
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 51


def test_sqlite(folder: Path, behind: Folder, tmp_path: Path) -> None:
    python(
        "import sqlite3\n"
        "db = sqlite3.connect('d.db'); db.execute('create table t (a, b)')\n"
        "with db: db.executemany('insert into t values (?, ?)', ((i, str(i) * 50) for i in range(2000)))\n"
        "with db: db.execute('delete from t where a % 2')\n"
        "try:\n"
        "    with db: db.execute('insert into t values (1, 1)'); raise KeyError\n"
        "except KeyError: pass\n"
        "db.close()\n"
        "db = sqlite3.connect('d.db'); assert db.execute('select count(*) from t').fetchone() == (1000,)\n"
        "assert db.execute('pragma integrity_check').fetchone() == ('ok',)\n",
        folder,
    )
    assert set(behind.paths) == {"d.db"}, "the journal is SQLite's own business"
    (tmp_path / "copy.db").write_bytes(behind.stored["d.db"])
    db = sqlite3.connect(tmp_path / "copy.db")
    assert db.execute("select count(*), sum(a) from t").fetchone() == (1000, sum(range(0, 2000, 2)))
    db.close()


def test_random_access_agrees_with_a_local_file(folder: Path, local: Path, behind: Folder, drive: Mount) -> None:
    data = noise(9 * MB)
    behind.put("r", data)
    drive.refresh(folder)
    code = (
        "import hashlib, os, random\n"
        "chance, fd, h = random.Random(5), os.open('r', os.O_RDONLY), hashlib.md5()\n"
        "for _ in range(400): h.update(os.pread(fd, chance.randrange(200_000), chance.randrange(9_200_000)))\n"
        "print(h.hexdigest())\n"
    )
    (local / "r").write_bytes(data)
    assert python(code, folder) == python(code, local)


def test_meta_json_opens_but_is_not_listed(folder: Path, behind: Folder) -> None:
    assert f'"Id": "{behind.record}"' in run("cat .meta.json", folder).stdout
    assert run("ls -A", folder).stdout == ""


def test_xattrs_answer_by_name_and_do_not_litter_copies(folder: Path, local: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"abc")
    assert os.getxattr(folder / "f", "user.labfs.checksum") == b"md5:" + hashlib.md5(b"abc").hexdigest().encode()
    assert os.getxattr(folder / "f", "user.labfs.state") == b"saved"
    assert os.getxattr(folder / "f", "user.labfs.site") == b"basespace"
    assert run(f"cp -a f '{local}/f'", folder).returncode == 0
    assert os.listxattr(local / "f") == []
