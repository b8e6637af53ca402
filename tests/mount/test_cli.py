"""The command line: what it says when something is wrong, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stage import Mount, Sandbox, labfs, mounted, run, typed, until

from labfs.daemon import mounts

pytestmark = pytest.mark.mount

GOOD = '[sites.hub]\nkind = "basespace"\nurl = "https://hub.example"\ntoken = "t"\n'


@pytest.fixture
def there(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def refused(tmp_path: Path, there: Path) -> Callable[..., str]:
    """Try to mount a configuration that is wrong; return the sentence."""

    def attempt(text: str, *options: str, where: Path = there) -> str:
        config = tmp_path / "labfs.toml"
        config.write_text(text)
        config.chmod(0o600)
        done = labfs("mount", "-c", config, *options, where, env={"LABFS_STATE_DIR": str(tmp_path / "state")})
        assert done.returncode != 0
        assert done.stdout == ""
        sentence: str = done.stderr.strip()
        assert sentence.startswith("labfs: ")
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        assert not mounted(where)
        return sentence

    return attempt


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace('token = "t"\n', ""), ["site “hub”", "no token", "env"]),
        (GOOD + "tokken = 1\n", ["unknown key “tokken”", "token"]),
        (GOOD.replace('"basespace"', '"basepace"'), ["unknown kind “basepace”", "basespace"]),
        (GOOD.replace('kind = "basespace"\n', ""), ["no kind"]),
        (GOOD.replace("https://hub.example", "hub.example"), ["hub.example", "https://"]),
        (GOOD.replace("https://hub.example", "http://hub.example"), ["unencrypted"]),
        (GOOD + 'access = "rw"\n', ["access “rw”", "read, write or full"]),
        (GOOD + "timeout_s = -1\n", ["timeout_s"]),
        (GOOD.replace('"t"', '{ env = "LABFS_NO_SUCH_TOKEN" }'), ["LABFS_NO_SUCH_TOKEN", "not set"]),
        (GOOD.replace('"t"', '{ file = "/no/such/file" }'), ["/no/such/file", "No such file"]),
        (GOOD.replace('"t"', "{ environment = 1 }"), ["token must be"]),
        (GOOD.replace('"t"', '""'), ["token is empty"]),
        ("", ["names no site"]),
        ("[sites]\n", ["names no site"]),
        ("nonsense = [\n", ["not valid TOML"]),
        (GOOD + "[cash]\n", ["unknown section “cash”"]),
        (GOOD + "[cache]\nmib = 3\n", ["mib"]),
        (GOOD.replace("[sites.hub]", '[sites."a/b"]'), ["cannot be a directory"]),
    ],
)
def test_a_wrong_configuration_is_one_plain_sentence(text: str, words: list[str], refused: Callable[..., str]) -> None:
    sentence = refused(text)
    for word in words:
        assert word in sentence


def test_an_unknown_site_is_named(refused: Callable[..., str]) -> None:
    assert "no site “lims”" in refused(GOOD, "--site", "lims")


def test_a_missing_configuration_says_where_it_was_looked_for(there: Path) -> None:
    done = labfs("mount", "-c", "/no/such/labfs.toml", there)
    assert done.returncode != 0
    assert "/no/such/labfs.toml" in done.stderr


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, there: Path) -> None:
    config = tmp_path / "labfs.toml"
    config.write_text(GOOD)
    config.chmod(0o644)
    done = labfs("mount", "-c", config, there)
    assert (done.returncode, "chmod 600" in done.stderr) == (1, True)


# -- servers that are not what they should be ----------------------------------------------------------


def at(url: str, token: str = "t") -> str:
    return f'[sites.hub]\nkind = "basespace"\nurl = "{url}"\ntoken = "{token}"\ntimeout_s = 1\n'


def test_a_wrong_token(refused: Callable[..., str], sandbox: Sandbox) -> None:
    sentence = refused(at(sandbox.url, "wrong"))
    assert "Unrecognized access token" in sentence
    assert "It is stored by: labfs login hub." in sentence
    assert "wrong" not in sentence


@pytest.fixture
def server() -> Iterator[Callable[[bytes], str]]:
    """A server that answers everything with the same bytes, and then closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answering(answer: bytes) -> str:
        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if answer:
                        connection.recv(65536)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield answering
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_server_that_answers_html(refused: Callable[..., str], server: Callable[[bytes], str]) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
    sentence = refused(at(server(page)))
    assert "a web page" in sentence
    assert "url right" in sentence


def test_servers_that_may_come_to_themselves_are_mounted(
    tmp_path: Path, server: Callable[[bytes], str], sandbox: Sandbox
) -> None:
    """One is down, one closes at once: waiting may help, and the mount says what there is to say. So it does of one whose
    token is wrong, which alone would refuse the mount.
    """
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = tmp_path / "labfs.toml"
        down, closing = f"http://127.0.0.1:{unused.getsockname()[1]}", server(b"")
        texts = [at(down), at(closing).replace("hub", "closing"), at(sandbox.url, "wrong").replace("hub", "denied")]
        config.write_text("".join(texts))
        config.chmod(0o600)
        mount = Mount(tmp_path, config)
        try:
            mount.start()
            doubts = [site["doubt"] for site in mount.status()["sites"]]
            for doubt, words in zip(
                doubts, ("cannot be reached", "broke off", "Unrecognized access token"), strict=True
            ):
                assert words in doubt
            for site in ("hub", "closing", "denied"):
                with pytest.raises(OSError):
                    os.listdir(mount.path / site)
        finally:
            mount.clean_up()


def test_a_server_that_speaks_no_http_alone_is_mounted(tmp_path: Path, server: Callable[[bytes], str]) -> None:
    config = tmp_path / "labfs.toml"
    config.write_text(at(server(b"SSH-2.0-OpenSSH_9.2\r\n")))
    config.chmod(0o600)
    mount = Mount(tmp_path, config)
    try:
        mount.start()
        assert "hub:" in mount.status()["sites"][0]["doubt"]
    finally:
        mount.clean_up()


# -- mount points --------------------------------------------------------------------------------------


def test_mount_points_that_cannot_be_used(
    refused: Callable[..., str], sandbox: Sandbox, tmp_path: Path, drive: Mount
) -> None:
    text = sandbox.config.read_text()
    assert "does not exist; make it" in refused(text, where=tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "is not a directory" in refused(text, where=tmp_path / "file")
    assert "is not empty" in refused(text, where=tmp_path)
    done = labfs("mount", "-c", sandbox.config, drive.path, env=drive.env)
    assert (done.returncode, "is mounted by labfs already" in done.stderr) == (1, True)


def test_a_mount_point_that_something_else_uses(sandbox: Sandbox, there: Path, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", there], capture_output=True).returncode:
        return  # only root may mount something else there
    try:
        done = labfs("mount", "-c", sandbox.config, there, env={"LABFS_STATE_DIR": str(tmp_path / "state")})
        assert (done.returncode, "is busy: tmpfs" in done.stderr) == (1, True)
    finally:
        subprocess.run(["umount", there], check=True)


def test_unmounting_what_is_not_mounted(there: Path) -> None:
    done = labfs("umount", there)
    assert (done.returncode, "is not mounted by labfs" in done.stderr) == (1, True)


# -- life and death ------------------------------------------------------------------------------------


@pytest.fixture
def mount(sandbox: Sandbox, tmp_path: Path) -> Iterator[Mount]:
    mount = Mount(tmp_path, sandbox.config, "--site=basespace")
    try:
        yield mount
    finally:
        mount.clean_up()


def under_way(mount: Mount, count: int, within_s: float = 30.0) -> bool:
    """Wait until so many uploads are under way."""
    until = time.monotonic() + within_s
    while sum(upload["state"] == "uploading" for upload in mount.status()["uploads"]) < count:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_mount_serves_when_it_returns_and_umount_leaves_nothing(mount: Mount) -> None:
    mount.start()
    assert "basespace" in os.listdir(mount.path)
    status = mount.status()
    assert status["mountpoint"] == str(mount.path)
    assert status["sites"][0]["name"] == "basespace"
    assert "basespace" in labfs("status", env=mount.env).stdout
    pid = mount.pid
    done = mount.stop()
    assert (done.returncode, done.stderr) == (0, "")
    assert not mounted(mount.path)
    assert gone(pid)
    assert mount.spooled == []
    assert not list(mount.state.glob("mounts/*/control"))
    assert labfs("status", env=mount.env).stdout == "Nothing is mounted.\n"


def test_inode_numbers_are_the_same_after_a_remount(mount: Mount) -> None:
    mount.start()
    command = f"cd '{mount.path}' && find basespace/Tumour* -printf '%i %p\\n' | sort"
    before = run(command).stdout
    mount.stop()
    mount.start()
    assert run(command).stdout == before
    assert len({line.split()[0] for line in before.splitlines()}) == len(before.splitlines())


def test_the_daemon_survives_its_terminal(mount: Mount, sandbox: Sandbox) -> None:
    mount.path.mkdir(exist_ok=True)
    command = f"python -m labfs mount -c '{sandbox.config}' '{mount.path}'"
    shell = ["env", "--default-signal", "bash", "-c", f"{command}; sleep 60"]
    session = subprocess.Popen(shell, env={**os.environ, **mount.env, "PATH": path()},
                               start_new_session=True, stdout=subprocess.DEVNULL)  # fmt: skip
    for _ in range(200):
        if mounted(mount.path):
            break
        time.sleep(0.05)
    os.killpg(session.pid, signal.SIGHUP)
    session.wait(10)
    assert "basespace" in os.listdir(mount.path)


def path() -> str:
    import sys

    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_kill_9_leaves_a_mount_that_the_next_one_replaces(mount: Mount, sandbox: Sandbox) -> None:
    mount.start()
    pid = mount.pid
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert mounted(mount.path)
    assert run(f"ls '{mount.path}'").returncode != 0
    assert "dead" in labfs("status", env=mount.env).stdout
    mount.start()
    assert "basespace" in os.listdir(mount.path)
    assert (
        sum(line.split()[4] == str(mount.path) for line in Path("/proc/self/mountinfo").read_text().splitlines()) == 1
    )


def test_kill_9_loses_no_written_byte(mount: Mount, sandbox: Sandbox) -> None:
    folder = sandbox.fresh()
    mount.start()
    with open(folder.at(mount.path) / "f", "wb", buffering=0) as file:
        file.write(b"precious")
        os.fsync(file.fileno())
        os.kill(mount.pid, signal.SIGKILL)
        run("sleep 0.1")
        with contextlib.suppress(OSError):
            file.close()
    (name,) = [line.split()[0] for line in typed("outbox", "list", env=mount.env).stdout.splitlines()]
    target = mount.path.parent / "saved"
    assert typed("outbox", "export", name, target, env=mount.env).returncode == 0
    assert target.read_bytes() == b"precious"
    assert "outbox" in typed("status", env=mount.env).stdout
    mount.start()  # which sends nothing of what was not closed, until somebody names it
    assert typed("outbox", "retry", name, env=mount.env).returncode == 0
    run(
        'for i in $(seq 300); do test "$(cat f 2>/dev/null)" = precious && exit; sleep 0.1; done', folder.at(mount.path)
    )
    until(lambda: folder.stored == {"f": b"precious"}, 30)
    until(lambda: typed("outbox", "list", env=mount.env).stdout == "")


def test_umount_of_a_dead_mount_detaches_it(mount: Mount) -> None:
    mount.start()
    os.kill(mount.pid, signal.SIGKILL)
    assert gone(mount.pid)
    done = mount.stop()
    assert (done.returncode, mounted(mount.path)) == (0, False), done.stderr + done.stdout


def test_a_lock_without_ears_is_of_a_daemon_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABFS_STATE_DIR", str(tmp_path / "state"))
    place = mounts.Place(str(tmp_path / "mnt"))
    place.directory.mkdir(parents=True)
    with open(place.directory / "lock", "w") as lock, socket.socket(socket.AF_UNIX) as ear:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert place.in_use(), "it begins"
        with contextlib.chdir(place.directory):
            ear.bind(place.socket.name)
        threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        assert not place.in_use()
        ear.listen()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert place.in_use()


def test_umount_names_who_is_busy(mount: Mount) -> None:
    mount.start()
    sleeper = subprocess.Popen(["sleep", "60"], cwd=mount.path / "basespace")
    try:
        done = mount.stop()
        assert done.returncode == 1
        assert f"sleep (process {sleeper.pid}" in done.stderr
    finally:
        sleeper.kill()
        sleeper.wait()
    assert mount.stop().returncode == 0


def test_an_edit_that_lacks_bytes_is_not_exported_as_a_file(mount: Mount, sandbox: Sandbox) -> None:
    folder = sandbox.fresh()
    folder.put("f", b"A" * 300_000)
    mount.start()
    with open(folder.at(mount.path) / "f", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"EDIT", 1000)
        os.fsync(file.fileno())
        os.kill(mount.pid, signal.SIGKILL)
        run("sleep 0.1")
        with contextlib.suppress(OSError):
            file.close()
    (name,) = [line.split()[0] for line in typed("outbox", "list", env=mount.env).stdout.splitlines()]
    target = mount.path.parent / "saved"
    done = typed("outbox", "export", name, target, env=mount.env)
    assert (done.returncode, "lacks 293.0 KiB" in done.stderr, target.exists()) == (1, True, False)
    assert typed("outbox", "export", "--partial", name, target, env=mount.env).returncode == 0
    assert target.read_bytes() == bytes(1000) + b"EDIT"


def test_a_hundred_closes_on_a_slow_site_do_not_stop_the_mount(mount: Mount, sandbox: Sandbox) -> None:
    folder = sandbox.fresh()
    mount.start()
    run(f"ls '{folder.at(mount.path)}'")
    sandbox.faults(
        {
            "service": "basespace",
            "method": "POST",
            "route": "*/files",
            "action": "delay_s",
            "argument": 4,
            "times": None,
        }
    )
    writers = subprocess.Popen(
        ["bash", "-c", f"cd '{folder.at(mount.path)}'; for i in $(seq 120); do echo $i > f$i & done; wait"]
    )
    under_way(mount, 100, within_s=3.0)  # on a busy machine some are answered before others begin
    assert under_way(mount, 20)
    began = time.monotonic()
    assert run(f"df '{mount.path}'; ls '{mount.path}'").returncode == 0
    assert time.monotonic() - began < 3, "no close has been answered meanwhile"
    sandbox.faults()
    assert writers.wait(60) == 0
    assert len(folder.stored) == 120


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(mount: Mount, number: signal.Signals) -> None:
    mount.start()
    os.kill(mount.pid, number)
    assert gone(mount.pid)
    assert not mounted(mount.path)


def test_fusermount_ends_it_cleanly(mount: Mount) -> None:
    mount.start()
    pid = mount.pid
    assert subprocess.run(["fusermount3", "-u", mount.path]).returncode == 0
    assert gone(pid)


def test_umount_waits_for_an_upload_and_says_so(mount: Mount, sandbox: Sandbox) -> None:
    folder = sandbox.fresh()
    mount.start()
    run(f"ls '{folder.at(mount.path)}'")
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "delay_s", "argument": 2})
    writer = subprocess.Popen(["bash", "-c", f"echo slow > '{folder.at(mount.path)}/f'"])
    assert under_way(mount, 1)
    done = mount.stop()
    writer.wait(10)
    assert done.returncode == 0, done.stderr
    assert "Waiting for 1 upload" in done.stdout
    assert folder.stored == {"f": b"slow\n"}


def test_umount_fails_while_a_save_is_not_on_its_server(mount: Mount, sandbox: Sandbox) -> None:
    folder = sandbox.fresh()
    mount.start()
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status",
                    "argument": 403, "times": None})  # fmt: skip
    assert run(f"cp /etc/hostname '{folder.at(mount.path)}/f'").returncode != 0
    done = mount.stop()
    assert (done.returncode, mounted(mount.path)) == (1, False)
    assert "outbox" in done.stderr


def test_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    mount = Mount(tmp_path, sandbox.config, "--read-only")
    try:
        mount.start()
        done = run(f"mkdir '{mount.path}/basespace/x'; echo > '{mount.path}/basespace/Tumour panel 2026/Upload here/f'")
        assert done.stderr.count("Read-only file system") == 2
    finally:
        mount.clean_up()


def test_why_info_and_refresh(drive: Mount, folder: Path) -> None:
    (folder / "f").write_bytes(b"abc")
    run(f"rm '{folder}/f'")
    assert "cannot delete a single file" in labfs("why", folder / "f", env=drive.env).stdout
    shown = labfs("info", folder / "f", env=drive.env).stdout
    assert "checksum" in shown
    assert "saved" in shown
    done = labfs("info", "/etc/passwd", env=drive.env)
    assert (done.returncode, "is not in anything that labfs has mounted" in done.stderr) == (1, True)
    assert labfs("refresh", folder / "absent", env=drive.env).returncode == 1


def test_sandbox_on_a_taken_port_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = labfs("sandbox", "--dir", tmp_path / "s", "--port", str(taken.getsockname()[1]))
    assert (done.returncode, "cannot start: Address already in use" in done.stderr) == (1, True)


def test_sandbox_keeps_its_state(tmp_path: Path) -> None:
    from stage import start_sandbox

    for round_ in (1, 2):
        process, sandbox = start_sandbox(tmp_path)
        try:
            if round_ == 1:
                record = sandbox.record(sandbox.project("Kept"), "R")
                sandbox.put(record, "a/b.txt", b"bytes")
                assert "basespace" in json.loads((tmp_path / "sandbox.json").read_text())["sites"]
            else:
                assert sandbox.stored(record) == {"a/b.txt": b"bytes"}
                number = sandbox.rows(record)[0]["id"]
                url = sandbox.api("GET", f"files/{number}/content", params={"redirect": "meta"})["HrefContent"]
                assert run(f"curl -s '{url}'").stdout == "bytes"
        finally:
            sandbox.close()
            process.terminate()
            assert process.wait(10) == 0
            assert process.stdout is not None
            process.stdout.close()
