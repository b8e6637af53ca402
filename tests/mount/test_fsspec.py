"""What labfs promises, through the door for programs without a mount."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import five_stage
import fsspec
import pytest
from places import Place
from stage import Folder, Sandbox, labfs, typed

from labfs.fsspec.filesystem import LabFileSystem

NOISE = random.Random(3).randbytes(5_000_000)
SITES = ("basespace", "clarity", "odm", "portal")


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[five_stage.Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture(params=SITES)
def place(request: pytest.FixtureRequest, lab: five_stage.Lab, unmounted: LabFileSystem) -> Place:
    unmounted.invalidate_cache()
    return Place(lab, request.param, lab.places[request.param])


@pytest.fixture
def fs(unmounted: LabFileSystem) -> LabFileSystem:
    return unmounted


@pytest.fixture
def record(sandbox: Sandbox, unmounted: LabFileSystem) -> Folder:
    made = sandbox.fresh()
    unmounted.invalidate_cache()
    return made


@pytest.fixture
def there(record: Folder) -> str:
    return str(record.at(Path()))


def env(fs: LabFileSystem) -> dict[str, str]:
    """The environment of a program beside this one, with the same state."""
    base = Path(fs.config).parent
    return {
        "LABFS_CONFIG": fs.config,
        "LABFS_STATE_DIR": str(base / "state"),
        "LABFS_CACHE_DIR": str(base / "cache"),
    }


def program(text: str, fs: LabFileSystem, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(text), *words]
    return subprocess.Popen(command, env={**os.environ, **env(fs)}, stdout=subprocess.PIPE, text=True)


# -- in every system -------------------------------------------------------------------------------------


def test_a_save_is_read_at_once_and_is_one_upload(fs: LabFileSystem, place: Place) -> None:
    path = f"{place.path}/once.bin"
    place.reset()
    with fs.open(path, "wb") as file:
        for start in range(0, 300_000, 1000):
            file.write(NOISE[start : start + 1000])
        file.flush()
        assert fs.cat_file(path) == NOISE[:300_000], "before the close too"
    assert place.stored()["once.bin"] == NOISE[:300_000]
    assert place.uploads() == 1
    assert fs.cat_file(path, 1000, 2000) == NOISE[1000:2000]
    assert fs.cat_file(path, -10) == NOISE[299_990:300_000]
    assert fs.info(path)["size"] == 300_000
    assert path in fs.find(str(place.path))


# -- saving ----------------------------------------------------------------------------------------------


def test_modes(fs: LabFileSystem, record: Folder, there: str) -> None:
    path = f"labfs://{there}/text.txt"
    with fsspec.open(path, "w", config=fs.config) as file:
        file.write("one\n")
    with fs.open(path, "ab") as file:
        assert file.tell() == 4
        file.write(b"two\n")
    with fs.open(path, "r+b") as file:
        file.seek(1)
        file.write(b"NE")
        file.seek(0)
        assert file.readline() == b"oNE\n"
    with pytest.raises(FileExistsError), fs.open(path, "xb"):
        pass
    assert record.stored == {"text.txt": b"oNE\ntwo\n"}
    with fs.open(f"{path}.gz", "wb", compression="gzip") as file:
        file.write(b"packed")
    assert fs.open(f"{path}.gz", compression="infer").read() == b"packed"


def test_a_close_that_fails_says_why_and_keeps_the_bytes(
    fs: LabFileSystem, record: Folder, there: str, sandbox: Sandbox
) -> None:
    record.put("f", b"old")
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "times": None,
                    "action": "status", "argument": 403})  # fmt: skip
    file = fs.open(f"{there}/f", "wb")
    file.write(b"new")
    with pytest.raises(PermissionError) as caught:
        file.close()
    assert caught.value.errno in (errno.EACCES, errno.EPERM)
    assert "basespace" in str(caught.value.strerror)
    assert fs.cat_file(f"{there}/f") == b"old"
    kept = typed("outbox", "list", env=env(fs)).stdout.splitlines()
    (name,) = [line.split()[0] for line in kept if f"{there}/f" in line]
    sandbox.faults()
    assert typed("outbox", "retry", name, env=env(fs)).returncode == 0
    for _ in range(100):
        if record.stored["f"] == b"new":
            break
        time.sleep(0.05)
    assert record.stored["f"] == b"new"


def test_a_conflict_keeps_both(fs: LabFileSystem, lab: five_stage.Lab) -> None:
    path = f"{lab.places['redcap']}/f"
    fs.invalidate_cache()
    fs.pipe_file(path, b"old")
    file = fs.open(path, "wb")
    file.write(b"mine")
    file.flush()
    lab.put("redcap", "f", b"theirs")
    with pytest.raises(OSError, match="Somebody else has saved") as caught:
        file.close()
    assert caught.value.errno == errno.ESTALE
    assert lab.redcap.stored(lab.record)["counts", 1] == ("f", b"theirs")
    listed = typed("outbox", "list", env=env(fs)).stdout
    (name,) = [line.split()[0] for line in listed.splitlines() if path in line]
    mine = Path(fs.config).parent / "mine"
    assert typed("outbox", "export", name, mine, env=env(fs)).returncode == 0
    assert mine.read_bytes() == b"mine"
    assert typed("outbox", "discard", name, env=env(fs)).returncode == 0


def test_a_transaction_saves_all_or_nothing(fs: LabFileSystem, record: Folder, there: str) -> None:
    def fail() -> None:
        with fs.transaction, fs.open(f"{there}/none", "wb") as file:
            file.write(b"none")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with fs.transaction:
        with fs.open(f"{there}/a", "wb") as file:
            file.write(b"a")
        assert record.stored == {}
    assert record.stored == {"a": b"a"}


def test_what_a_killed_process_wrote_is_in_the_outbox(fs: LabFileSystem, record: Folder, there: str) -> None:
    text = """
        import sys, fsspec
        file = fsspec.filesystem("labfs").open(sys.argv[1], "wb")
        file.write(b"x" * 500_000)
        file.flush()
        print("written", flush=True)
        sys.stdin.read()
    """
    process = program(text, fs, f"{there}/cut")
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    assert record.stored == {}
    assert f"{there}/cut" in typed("outbox", "list", env=env(fs)).stdout


def test_what_is_still_open_at_the_exit_is_saved(fs: LabFileSystem, record: Folder, there: str) -> None:
    text = """
        import sys, fsspec
        keep = fsspec.filesystem("labfs").open(sys.argv[1], "wb")
        keep.write(b"last")
        text = fsspec.filesystem("labfs").open(sys.argv[1] + ".txt", "w")
        text.write("line")
    """
    process = program(text, fs, f"{there}/last")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert record.stored == {"last": b"last", "last.txt": b"line"}


# -- reading ---------------------------------------------------------------------------------------------


def test_two_versions_never_mix(fs: LabFileSystem, lab: five_stage.Lab) -> None:
    path = f"{lab.places['odm']}/big.bin"
    lab.put("odm", "big.bin", NOISE + NOISE)
    fs.invalidate_cache()
    with fs.open(path, "rb") as file:
        assert file.read(100) == NOISE[:100]
        number = fs.info(path)["id"]
        lab.odm.ask("DELETE", "manage-data/data", params={"accessions": number}).raise_for_status()
        lab.put("odm", "big.bin", NOISE[::-1] * 2)
        file.seek(9_000_000)
        with pytest.raises(OSError, match=r".") as caught:
            file.read(100)
        assert caught.value.errno == errno.ESTALE
    fs.invalidate_cache()
    assert fs.cat_file(path, 0, 10) == NOISE[::-1][:10]


@pytest.mark.parametrize(("action", "argument"), [("cut", 5), ("short", 1000), ("corrupt", 70_000), ("status", 500)])
def test_a_damaged_body_is_right_or_an_error(
    action: str, argument: int, fs: LabFileSystem, record: Folder, there: str, sandbox: Sandbox
) -> None:
    data = NOISE[:1_500_000]
    record.put("f", data)
    assert fs.exists(f"{there}/f")
    sandbox.faults({"service": "blobs", "method": "GET", "times": 1, "action": action, "argument": argument})
    got = caught = None
    try:
        got = fs.cat_file(f"{there}/f")
    except OSError as error:
        caught = error.errno
    assert got == data or caught == errno.EIO
    sandbox.faults()
    assert fs.cat_file(f"{there}/f") == data


def test_looking(fs: LabFileSystem, record: Folder, there: str) -> None:
    for path in ("a.csv", "run/b.csv", "run/deep/c.txt"):
        record.put(path, path.encode())
    assert fs.ls(there, detail=False) == [f"{there}/a.csv", f"{there}/run"]
    assert fs.glob(f"{there}/**/*.csv") == [f"{there}/a.csv", f"{there}/run/b.csv"]
    assert [names for _, _, names in fs.walk(there)] == [["a.csv"], ["b.csv"], ["c.txt"]]
    assert fs.cat(f"{there}/run", recursive=True)[f"{there}/run/b.csv"] == b"run/b.csv"
    assert fs.isdir(f"{there}/run")
    assert not fs.exists(f"{there}/none")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{there}/none")
    record.put("late.txt", b"late")
    fs.invalidate_cache(there)
    assert fs.exists(f"{there}/late.txt")
    record.put("later.txt", b"later")
    time.sleep(1.0)  # after which a listing is asked for anew
    assert f"{there}/later.txt" in fs.ls(there, detail=False)


def test_names_are_moved_and_removed(fs: LabFileSystem, lab: five_stage.Lab) -> None:
    there = f"{lab.places['portal']}"
    fs.invalidate_cache()
    fs.pipe_file(f"{there}/old.txt", b"moved")
    fs.mv(f"{there}/old.txt", f"{there}/new.txt")
    assert [row["filename"] for row in lab.team.rows() if row["data"] == b"moved"] == ["new.txt"]
    fs.cp(f"{there}/new.txt", f"{there}/copy.txt")
    fs.rm(f"{there}/new.txt")
    assert [row["filename"] for row in lab.team.rows() if row["data"] == b"moved"] == ["copy.txt"]


# -- processes and threads -------------------------------------------------------------------------------


def test_it_is_pickled(fs: LabFileSystem, record: Folder, there: str) -> None:
    record.put("f", NOISE)
    again: Any = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(f"{there}/f", 0, 5) == NOISE[:5]
    opened = pickle.loads(pickle.dumps(fsspec.open(f"labfs://{there}/f", config=fs.config)))
    with opened as file:
        file.seek(4_000_000)
        copy = pickle.loads(pickle.dumps(file))
        assert copy.read(100) == NOISE[4_000_000:4_000_100]
        copy.close()
    with fs.open(f"{there}/new", "wb") as file, pytest.raises(TypeError, match="pickled"):
        pickle.dumps(file)


def _child(fs: LabFileSystem, file: Any, parents: Any, there: str) -> None:
    assert fs.cat_file(f"{there}/f") == NOISE
    file.seek(3_000_000)
    assert file.read(100) == NOISE[3_000_000:3_000_100], "what was open is opened anew"
    with pytest.raises(OSError, match="parent's"):
        parents.raw.write(b"child")
    fs.pipe_file(f"{there}/child", b"child")


def test_a_fork_goes_on(fs: LabFileSystem, record: Folder, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record.put("f", NOISE)
    for name, value in env(fs).items():
        monkeypatch.setenv(name, value)
    with fs.open(f"{there}/f", "rb") as file, fs.open(f"{there}/parent", "wb") as parents:
        file.read(10)
        assert fs.cat_file(f"{there}/f") == NOISE
        forked = multiprocessing.get_context("fork").Process(target=_child, args=(fs, file, parents, there))
        forked.start()
        forked.join(60)
        assert forked.exitcode == 0
        parents.write(b"parent")
        assert file.read(10) == NOISE[10:20]
    assert {name: record.stored[name] for name in ("child", "parent")} == {"child": b"child", "parent": b"parent"}
    fs.invalidate_cache()
    assert fs.cat_file(f"{there}/child") == b"child"


def test_threads(fs: LabFileSystem, record: Folder, there: str) -> None:
    record.put("f", NOISE)
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            fs.pipe_file(f"{there}/{number}", bytes([number]) * 1000)
            with fs.open(f"{there}/f") as file:
                file.seek(number * 500_000)
                assert file.read(1000) == NOISE[number * 500_000 :][:1000]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert {name: data for name, data in record.stored.items() if name != "f"} == {
        str(number): bytes([number]) * 1000 for number in range(8)
    }


def test_asyncio(fs: LabFileSystem, record: Folder, there: str) -> None:
    async def main() -> None:
        own = LabFileSystem(config=fs.config, asynchronous=True)
        await asyncio.gather(*(own._pipe_file(f"{there}/{number}", b"x" * number) for number in range(1, 6)))
        assert await own._cat_ranges([f"{there}/5"] * 2, [0, 3], [2, 5]) == [b"xx", b"xx"]
        async with await own.open_async(f"{there}/streamed", "wb") as file:
            await file.write(b"streamed")
        async with await own.open_async(f"{there}/streamed") as file:
            await file.seek(3)
            assert await file.read() == b"eamed"

    asyncio.run(main())
    assert record.stored["streamed"] == b"streamed"


# -- without FUSE ----------------------------------------------------------------------------------------

BLOCKED = """
    import sys
    sys.modules["pyfuse3"] = None  # its import fails
    import fsspec
    print(sorted(fsspec.filesystem("labfs").ls("", detail=False)))
"""


def test_it_needs_no_libfuse(fs: LabFileSystem) -> None:
    process = program(BLOCKED, fs)
    out, _ = process.communicate(timeout=30)
    assert out == f"{sorted(five_stage.SITES)}\n"


def test_a_mount_without_pyfuse3_says_what_to_install(
    fs: LabFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    done = typed("mount", tmp_path, env=env(fs))
    assert done.returncode == 1
    assert "labfs[fuse]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_shows_a_program_without_a_mount(fs: LabFileSystem) -> None:
    done = labfs("status", env=env(fs))
    assert "labfs://" in done.stdout, done.stderr
