"""Saves over a real mount: one close, one file, the right bytes; and what cannot be saved is refused."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
from pathlib import Path

import pytest
from stage import Folder, Mount, Sandbox, run

pytestmark = pytest.mark.mount

MIB = 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -- descriptors that were duplicated ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("echo one > f", b"one\n"),
        ("(echo a; sleep 0.1; echo b) > f", b"a\nb\n"),
        ("(echo a; /bin/echo b; (sleep 0.2; /bin/echo c)) > f", b"a\nb\nc\n"),
        ("{ /bin/echo x & wait; /bin/echo y; } > f", b"x\ny\n"),
        ("printf 0123456789 | dd of=f bs=3 status=none", b"0123456789"),
        ("printf abc | tee f > /dev/null", b"abc"),
        ("exec 3> f; echo via3 >&3; /bin/echo again >&3; exec 3>&-", b"via3\nagain\n"),
        ("exec 3> f 4>&3; exec 3>&-; echo copy >&4; exec 4>&-", b"copy\n"),
        ("(sleep 0.3; echo late) > f & wait", b"late\n"),
        ("python3 -c \"import os; print('py')\" > f", b"py\n"),
        ("head -c 3000000 /dev/zero > f", bytes(3_000_000)),
    ],
)
def test_one_redirection_is_one_file(command: str, wanted: bytes, folder: Path, behind: Folder) -> None:
    done = run(command, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert behind.stored == {"f": wanted}
    assert behind.paths == ["f"]


@pytest.mark.of_app_results
def test_close_of_the_last_copy_reports_the_failure(folder: Path, sandbox: Sandbox) -> None:
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status",
                    "argument": 413, "times": None})  # fmt: skip
    one = os.open(folder / "f", os.O_WRONLY | os.O_CREAT)
    two = os.dup(one)
    os.write(one, b"bytes")
    os.close(one)  # not the last copy: nothing is decided yet
    with pytest.raises(OSError) as caught:
        os.close(two)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.of_app_results
@pytest.mark.parametrize(
    ("command", "errno_", "wanted"),
    [
        ("echo two > f", None, b"two\n"),
        ("echo two >> f", None, b"two\n"),
        ("python3 -c \"open('f', 'x').write('new')\"", None, b"new"),
        ("cp /etc/hostname f && echo copied > f", None, b"copied\n"),
        ("test ! -e f", None, None),
        ("cat f", "No such file", None),
        ("truncate -s 5 f", None, bytes(5)),
    ],
)
def test_a_name_whose_new_file_was_not_saved_is_free_at_once(
    command: str, errno_: str | None, wanted: bytes | None, folder: Path, sandbox: Sandbox, behind: Folder
) -> None:
    """The kernel knows the name for a second still, and must ask again."""
    refusal = {"service": "basespace", "method": "POST", "route": "*/files", "action": "status", "argument": 403}
    sandbox.faults({**refusal, "times": 1})
    first = os.open(folder / "f", os.O_WRONLY | os.O_CREAT)
    os.write(first, b"one")
    with pytest.raises(PermissionError):
        os.close(first)
    done = run(command, folder)
    assert (done.returncode != 0) == (errno_ is not None), done.stderr
    assert (errno_ or "") in done.stderr
    assert behind.stored.get("f") == wanted


# -- one open file -------------------------------------------------------------------------------------


def test_every_way_to_write(folder: Path, behind: Folder) -> None:
    model = bytearray()
    chance = random.Random(3)
    with open(folder / "f", "w+b", buffering=0) as file:
        for _ in range(200):
            start, data = chance.randrange(300_000), chance.randbytes(chance.randrange(1, 9000))
            os.pwrite(file.fileno(), data, start)
            model[len(model) :] = bytes(max(start - len(model), 0))
            model[start : start + len(data)] = data
            if chance.random() < 0.1:
                size = chance.randrange(300_000)
                file.truncate(size)
                model[size:] = bytes(max(size - len(model), 0))
                del model[size:]
            low = chance.randrange(300_000)
            assert os.pread(file.fileno(), 5000, low) == model[low : low + 5000], "read back while open"
        assert os.stat(folder / "f").st_size == len(model), "the new size shows at once"
        assert (folder / "f").read_bytes() == model, "a second reader sees what is not saved yet"
        assert behind.stored == {}
    assert behind.stored == {"f": bytes(model)}
    assert behind.paths == ["f"]


def test_overwriting_in_the_middle_keeps_the_rest(folder: Path, behind: Folder, drive: Mount) -> None:
    data = bytearray(noise(3 * MIB + 5))
    behind.put("f", bytes(data))
    drive.refresh(folder)
    with open(folder / "f", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"MIDDLE", 2 * MIB - 3)
        data[2 * MIB - 3 : 2 * MIB + 3] = b"MIDDLE"
        assert os.pread(file.fileno(), 20, 2 * MIB - 10) == data[2 * MIB - 10 : 2 * MIB + 10]
        file.truncate(2 * MIB + 1)
        file.truncate(2 * MIB + 100)  # zeros, not what was there before
        data[2 * MIB + 1 :] = bytes(99)
        file.seek(0, os.SEEK_END)
        file.write(b"end")
        data += b"end"
    assert behind.stored["f"] == data


def test_sparse_file(folder: Path, behind: Folder) -> None:
    with open(folder / "f", "wb") as file:
        file.seek(6 * MIB)
        file.write(b"x")
    assert behind.stored["f"] == bytes(6 * MIB) + b"x"
    assert (folder / "f").stat().st_blocks == -(-(6 * MIB + 1) // 512)


def test_truncate_by_path(folder: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"0123456789")
    os.truncate(folder / "f", 4)
    assert (behind.stored["f"], (folder / "f").read_bytes()) == (b"0123", b"0123")
    os.truncate(folder / "f", 6)
    assert behind.stored["f"] == b"0123\0\0"


def test_append_from_two_processes(folder: Path, behind: Folder) -> None:
    run("echo start > f; (for i in $(seq 20); do echo a$i >&3; done) 3>>f & "
        "(for i in $(seq 20); do echo b$i >&3; done) 3>>f & wait", folder)  # fmt: skip
    run("sleep 0.3")
    lines = behind.stored["f"].decode().split()
    assert sorted(lines) == sorted(["start", *(f"{x}{i}" for x in "ab" for i in range(1, 21))])


def test_opening_for_writing_without_writing_uploads_nothing(folder: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"abc")
    with open(folder / "f", "r+b"):
        pass
    run("touch f; chmod 600 f", folder)
    assert behind.paths == ["f"]


def test_an_empty_file_works_where_the_service_takes_it(folder: Path, behind: Folder, sandbox: Sandbox) -> None:
    sandbox.switch(empty_upload="accept")
    assert run("touch f; : > g; cp /dev/null h; echo full > i", folder).returncode == 0
    assert behind.stored == {"f": b"", "g": b"", "h": b"", "i": b"full\n"}
    assert sorted(behind.paths) == ["f", "g", "h", "i"]


def test_an_empty_file_stays_here_where_it_does_not(folder: Path, behind: Folder, drive: Mount) -> None:
    assert run("touch f; : > g", folder).returncode == 0
    assert sorted(os.listdir(folder)) == ["f", "g"]
    assert os.getxattr(folder / "f", "user.labfs.state") == b"draft"
    assert behind.stored == {}
    (folder / "f").write_bytes(b"more")
    assert behind.stored == {"f": b"more"}


# -- large files ---------------------------------------------------------------------------------------


@pytest.mark.of_app_results
def test_300_mb_arrive_byte_for_byte_in_legal_parts(
    folder: Path, behind: Folder, sandbox: Sandbox, tmp_path: Path
) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.writelines(noise(1_000_000, seed) for seed in range(300))
    done = run(f"cp '{tmp_path}/big' '{folder}/big'")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = sandbox.rows(behind.record)
    assert subprocess.run(["cmp", tmp_path / "big", sandbox.directory / "blobs" / row["blob"]]).returncode == 0
    requests = sandbox.requests()
    assert requests["PUT /v1pre3/files/{id}/parts/{id}"] == -(-300_000_000 // (8 * MIB))
    assert requests["POST /v1pre3/files/{id}"] == 1
    assert row["etag"].endswith("-36")


# -- versions, names and refusals ----------------------------------------------------------------------


def test_saving_again_is_a_new_version_and_the_old_one_stays_reachable(
    folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox
) -> None:
    (folder / "f.txt").write_bytes(b"old")
    (folder / "f.txt").write_bytes(b"newer")
    assert behind.paths == ["f.txt", "f.txt"]
    drive.refresh(folder)
    assert os.listdir(folder) == ["f.txt"]
    assert (folder / "f.txt").read_bytes() == b"newer"
    oldest = sandbox.rows(behind.record)[0]["id"]
    assert (folder / f"f [{oldest}].txt").read_bytes() == b"old"


def test_somebody_elses_new_version_shows_after_a_refresh(folder: Path, behind: Folder, drive: Mount) -> None:
    (folder / "f").write_bytes(b"mine, and cached by the kernel")
    assert (folder / "f").read_bytes() == b"mine, and cached by the kernel"
    behind.put("f", b"theirs, of another length")
    assert (folder / "f").stat().st_size == len(b"mine, and cached by the kernel"), "for another second, it thinks"
    drive.refresh(folder)
    assert (folder / "f").stat().st_size == len(b"theirs, of another length")
    assert (folder / "f").read_bytes() == b"theirs, of another length"


def test_an_open_file_keeps_the_version_it_was_opened_with(folder: Path, behind: Folder, drive: Mount) -> None:
    behind.put("f", noise(3 * MIB, 1))
    drive.refresh(folder)
    with open(folder / "f", "rb", buffering=0) as file:
        first = os.pread(file.fileno(), 1000, 0)
        behind.put("f", noise(3 * MIB, 2))
        drive.refresh(folder)
        os.listdir(folder)
        assert (
            first + os.pread(file.fileno(), 1000, 2 * MIB) == noise(3 * MIB)[:1000] + noise(3 * MIB)[2 * MIB :][:1000]
        )


@pytest.mark.of_app_results
def test_pending_uploads_are_not_shown(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    sandbox.switch(pending_listed=True, statuses_ignored=True)
    behind.put("done", b"x")
    params = {"name": "half", "multipart": "true"}
    sandbox.api("POST", f"appresults/{behind.record}/files", params=params, headers={"Content-Type": "a/b"})
    drive.refresh(folder)
    assert os.listdir(folder) == ["done"]


def test_what_basespace_cannot_do_is_refused_with_a_reason(folder: Path, behind: Folder, drive: Mount) -> None:
    (folder / "f").write_bytes(b"abc")
    for command, word, reason in [
        ("rm f", "Operation not permitted", "cannot delete a single file"),
        ("mv f g", "Operation not permitted", "cannot rename or move"),
        ("mv f ../../", "Operation not permitted", ""),
        ("ln -s f s", "not", ""),
        ("ln f h", "not", ""),
        ("mkfifo p", "not", ""),
        ("rmdir ../Record", "", ""),
        ("echo x > ../loose", "Operation not permitted", "takes folders and no files"),
    ]:
        done = run(command, folder)
        assert done.returncode != 0, command
        assert word in done.stderr, (command, done.stderr)
        assert reason in drive.log
    assert behind.stored == {"f": b"abc"}
    assert os.listdir(folder) == ["f"]


def test_samples_and_signed_off_records_are_read_only(drive: Mount) -> None:
    for place in ("NA12871", "Signed off"):
        done = run(f"echo x > '{drive.path}/basespace/Tumour panel 2026/{place}/new'")
        assert "Read-only file system" in done.stderr
        assert oct((drive.path / "basespace/Tumour panel 2026" / place).stat().st_mode & 0o777) == "0o555"


def test_mkdir_makes_projects_records_and_folders(drive: Mount, sandbox: Sandbox) -> None:
    name = f"Made with mkdir {os.getpid()}"
    where = drive.path / "basespace" / name
    assert run(f"mkdir '{where}' '{where}/Result: 1%2F2' && echo x > '{where}/Result: 1%2F2/f'").returncode == 0
    project = sandbox.api("GET", "users/current/projects", params={"Name": name})["Items"][0]["Id"]
    (record,) = sandbox.api("GET", f"projects/{project}/appresults")["Items"]
    assert record["Name"] == "Result: 1/2", "the escape of the slash is undone"
    assert run(f"mkdir -p '{where}/Result: 1%2F2/a/b' && echo y > '{where}/Result: 1%2F2/a/b/g'").returncode == 0
    assert sandbox.stored(record["Id"]) == {"f": b"x\n", "a/b/g": b"y\n"}
    again = run(f"mkdir '{where}'")
    assert "File exists" in again.stderr
    assert run(f"mkdir '{where}/Result: 1%2F2/empty' && rmdir '{where}/Result: 1%2F2/empty'").returncode == 0


def test_mkdir_of_a_project_that_somebody_made_meanwhile(drive: Mount, sandbox: Sandbox) -> None:
    os.listdir(drive.path / "basespace")
    name = f"Made meanwhile {os.getpid()}"
    sandbox.project(name)
    assert "File exists" in run(f"mkdir '{drive.path}/basespace/{name}'").stderr


def test_twins_stay_apart_and_the_oldest_keeps_the_name(drive: Mount) -> None:
    exome = next((drive.path / "basespace").glob("NextSeq2000*"))
    plain, marked = sorted(os.listdir(exome), key=len)
    assert plain == "HD753 rep7"
    assert marked.startswith("HD753 rep7 [")
    assert b"42" in (exome / plain / "rep7.counts.txt").read_bytes()
    assert b"43" in (exome / marked / "rep7.counts.txt").read_bytes()


def test_an_archived_file_shows_its_size_and_says_why_it_does_not_open(drive: Mount) -> None:
    cold = next((drive.path / "basespace").glob("NextSeq2000*/*/cold.bam"))
    assert cold.stat().st_size > 0
    assert os.getxattr(cold, "user.labfs.state") == b"archived"
    with pytest.raises(BlockingIOError):
        cold.read_bytes()
    assert b"about two days" in os.getxattr(cold, "user.labfs.error")


@pytest.mark.of_app_results
def test_a_removed_record_disappears(sandbox: Sandbox, drive: Mount) -> None:
    made = sandbox.fresh()
    made.put("f", b"x")
    drive.refresh(drive.path / "basespace")
    folder = made.at(drive.path)
    assert os.listdir(folder) == ["f"]
    session = sandbox.api("GET", f"appresults/{made.record}")["AppSession"]["Id"]
    import httpx

    httpx.delete(
        f"{sandbox.url}/v2/appsessions/{session}", headers={"x-access-token": sandbox.token}
    ).raise_for_status()
    drive.refresh(folder)
    with pytest.raises(FileNotFoundError):
        os.listdir(folder)
    assert os.listdir(folder.parent) == []


def test_hostile_names_are_all_reachable_and_stay_inside(drive: Mount) -> None:
    (folder,) = (drive.path / "basespace" / "Odd names").iterdir()
    assert folder.name == "..%2F..%2Fetc"
    names = {path.name for path in folder.iterdir()}
    assert {"%2E%2E", "two%0Alines.txt", "caf\u00e9.txt", "cafe\u0301.txt", "CAF\u00c9.txt", "100%252F.txt"} <= names
    assert all(len(name.encode()) <= 255 for name in names)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes().startswith(b"content of")


# -- the local layer -----------------------------------------------------------------------------------


def test_temporary_and_desktop_files_never_leave_this_machine(folder: Path, behind: Folder, drive: Mount) -> None:
    before = drive.status()["local_files"]
    run("echo x > .~lock.a.odt#; echo x > '~$a.docx'; echo x > .DS_Store; echo x > .a.swp; mkdir .Trash-1000;"
        " echo x > .Trash-1000/b", folder)  # fmt: skip
    assert drive.status()["local_files"] == before + 5
    assert (
        run("cat .DS_Store; rm -r .~lock.a.odt# '~$a.docx' .DS_Store .a.swp .Trash-1000; ls -A", folder).stdout == "x\n"
    )
    assert behind.paths == []


def test_a_rename_from_a_temporary_name_is_one_save(folder: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"old")
    assert run("echo new > .goutputstream-ABC123 && mv .goutputstream-ABC123 f && cat f", folder).stdout == "new\n"
    assert behind.paths == ["f", "f"]
    assert behind.stored["f"] == b"new\n"
    assert os.listdir(folder) == ["f"]


def test_backup_and_rename_is_one_save(folder: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"old")
    assert run("mv f f~ && cat f~ && echo new > f && rm f~ && cat f && ls -A", folder).stdout == "oldnew\nf\n"
    assert behind.paths == ["f", "f"]


def test_a_backup_that_is_put_back_changes_nothing(folder: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"old")
    assert run("mv f f~ && mv f~ f && cat f && ls -A", folder).stdout == "oldf\n"
    assert behind.paths == ["f"]


def test_a_file_that_is_unlinked_while_open_stays_readable(folder: Path, behind: Folder) -> None:
    code = (
        "import os\n"
        "f = open('.a.swp', 'w+b', buffering=0); f.write(b'bytes'); os.unlink('.a.swp')\n"
        "f.seek(0); assert f.read() == b'bytes'; f.close()\n"
        "g = open('never', 'wb'); g.write(b'x'); g.flush(); os.unlink('never'); g.close()\n"
    )
    done = run(f'python3 -c "{code}"', folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (behind.paths, os.listdir(folder)) == ([], [])


def test_vim_saves_once(folder: Path, behind: Folder) -> None:
    (folder / "notes.txt").write_bytes(b"one\n")
    done = run("vim -es -u NONE -N -c 'set backup writebackup backupcopy=no' -c 'normal otwo' -c wq notes.txt", folder)
    assert done.returncode == 0, done.stderr
    assert behind.stored["notes.txt"] == b"one\ntwo\n"
    assert behind.paths == ["notes.txt", "notes.txt"]


# -- what a machine of random operations found ---------------------------------------------------------


def test_a_memory_map_keeps_its_place_beside_appending(folder: Path, behind: Folder) -> None:
    (folder / "f").write_bytes(b"x" * 5000)
    fd = os.open(folder / "f", os.O_RDWR | os.O_APPEND)
    with mmap.mmap(fd, 5000) as view:
        view[10:12] = view[4998:5000] = b"yy"
        view.flush()
    os.write(fd, b"end")
    os.close(fd)
    assert behind.stored == {"f": b"x" * 10 + b"yy" + b"x" * 4986 + b"yy" + b"end"}


def test_a_date_of_1970_is_a_date(folder: Path) -> None:
    (folder / "f").write_bytes(b"old")
    os.utime(folder / "f", (0, 0))
    assert (folder / "f").stat().st_mtime == 0


def test_a_directory_takes_the_place_of_an_empty_one(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
    (folder / "one").rename(folder / "two")
    assert os.listdir(folder) == ["two"]
