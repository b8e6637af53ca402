"""labfs as a part of the machine: mount(8) and fstab, systemd, and the completion of shells."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import TIMEOUT_S, Sandbox, mounted, typed

from labfs.cli.host import notify
from labfs.cli.host.helper import FOR_OTHERS
from labfs.cli.main import cli

pytestmark = pytest.mark.mount

PROGRAMS = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
HELPER = PROGRAMS / "mount.fuse.labfs"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) asks for root's rights, and so do views of a machine")
# Nothing outside of the view changes: it has this helper, this fstab, and what an ordinary user needs within reach.
VIEW = """set -eu
mount -t tmpfs -o mode=755 none {stage}/own
PYTHONPATH={scripts} {python} -c "
import sys
from pathlib import Path
from bench import private
private.own_device(Path('{stage}/own'))
private.reachable(Path('{stage}/own'), {{Path(sys.base_prefix).resolve(), private.CHECKOUT}})"
mount --bind {stage}/sbin "$(realpath /sbin)"
mount --bind {stage}/fstab /etc/fstab
export LABFS_STATE_DIR={stage}/state LABFS_CACHE_DIR={stage}/kept
cd /
"""


class View:
    """A machine of its own, as far as mounts go."""

    def __init__(self, stage: Path, config: Path) -> None:
        self.stage, self.drive, self.config = stage, stage / "drive", stage / "labfs.toml"
        for name in ("sbin", "own", "drive"):
            (stage / name).mkdir()
        (stage / "sbin/mount.fuse.labfs").symlink_to(HELPER)
        (stage / "fstab").touch()
        shutil.copy(config, self.config)

    def fstab(self, options: str) -> None:
        (self.stage / "fstab").write_text(f"{self.config} {self.drive} fuse.labfs {options} 0 0\n")

    def own(self, user: str) -> None:
        for path in (self.stage, self.drive, self.config):
            shutil.chown(path, user)

    def run(self, script: str) -> Any:
        known = {"stage": self.stage, "drive": self.drive, "config": self.config, "labfs": PROGRAMS / "labfs",
                 "scripts": ROOT / "scripts", "python": sys.executable, "nobody": "setpriv --reuid nobody --regid 65534 --clear-groups --"}  # fmt: skip
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "bash",
            "-c",
            VIEW.format(**known) + script.format(**known),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)

    def end(self) -> None:
        for note in self.stage.glob("state/mounts/*/mount.json"):
            with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
                os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def view(sandbox: Sandbox) -> Iterator[View]:
    with tempfile.TemporaryDirectory(prefix="labfs-view-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        view = View(Path(name), sandbox.config)
        yield view
        view.end()


@AS_ROOT
def test_mount8_mounts_and_umount8_unmounts(view: View) -> None:
    done = view.run("""
        mount -t fuse.labfs -o ro,nosuid,_netdev,site=basespace {config} {drive}
        findmnt -no SOURCE,FSTYPE,OPTIONS {drive}
        ls {drive}
        touch {drive}/basespace/x || echo refused
        umount {drive}
        ! findmnt {drive}
    """)
    assert done.returncode == 0, done.stderr
    table, *rest = done.stdout.splitlines()
    source, fstype, options = table.split()
    assert (source, fstype, options.split(",")[0]) == (str(view.config), "fuse.labfs", "ro")
    assert rest == ["basespace", "refused"]
    assert "Read-only file system" in done.stderr


@AS_ROOT
def test_fstab_mounts_once(view: View) -> None:
    view.fstab("_netdev,nofail,x-systemd.automount,noatime,site=portal")
    done = view.run("mount -a; mount -a; ls {drive}; {labfs} umount {drive}; ls {drive}")
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", ["portal", f"Unmounted {view.drive}."])


@AS_ROOT
@pytest.mark.parametrize(
    ("options", "by"), [("user,noauto,site=portal", "{nobody}"), ("setuid=nobody,site=portal", "")]
)
def test_an_ordinary_user_mounts_by_fstab(view: View, options: str, by: str) -> None:
    view.own("nobody")
    view.fstab(options)
    done = view.run(f"""
        {by} mount {{drive}}
        findmnt -no OPTIONS {{drive}}
        {{nobody}} ls {{drive}}/portal
        ls {{drive}} || echo not for root
        {{nobody}} umount {{drive}}
    """)
    assert done.returncode == 0, done.stderr
    table, *rest = done.stdout.splitlines()
    assert {"user_id=65534", "nosuid", "nodev"} <= set(table.split(","))
    assert {"Tumour bank", "not for root"} <= set(rest)


@AS_ROOT
def test_mount8_passes_on_why_it_failed(view: View) -> None:
    done = view.run("mount -t fuse.labfs -o nonsense {config} {drive}")
    assert (done.returncode, done.stderr) == (
        1,
        "mount.fuse.labfs: labfs has no mount option “nonsense”; it has: ro, allow_other, site=NAME, setuid=USER.\n",
    )
    done = view.run("mount -t fuse.labfs {stage}/none.toml {drive}")
    assert done.returncode == 32
    assert done.stderr.startswith(f"mount.fuse.labfs: There is no configuration at {view.stage}/none.toml;")


def helped(*words: str | Path, **env: str) -> Any:
    return subprocess.run(
        [HELPER, *words], capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **env}
    )


def test_the_helper_checks_and_refuses(sandbox: Sandbox, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    env = {"LABFS_STATE_DIR": str(tmp_path / "state"), "LABFS_CACHE_DIR": str(tmp_path / "kept")}
    usual = {**env, "LABFS_CONFIG": str(sandbox.config)}
    every = ",".join([*sorted(FOR_OTHERS - {"fsname"}), "fsname=x", "x-gvfs-show", "X-mount.mkdir"])
    assert helped("none", where, "-f", "-n", "-v", "-t", "fuse.labfs", "-o", every, **usual).returncode == 0
    assert helped("none", where, "-s", "-f", "-o", "nonsense", **usual).returncode == 0
    assert not mounted(where)
    for options, status, sentence in (
        ("remount,ro", 1, "A mount of labfs cannot be changed; unmount it, and mount it again."),
        ("setuid=nobody-at-all", 1, "This machine has no user “nobody-at-all”, which setuid names."),
        ("site=nowhere", 32, "There is no site “nowhere”"),
    ):
        done = helped("none", where, "-o", options, **usual)
        assert done.returncode == status, options
        assert done.stderr.startswith(f"mount.fuse.labfs: {sentence}"), options
    done = helped("none", tmp_path / "nothing", **usual)
    assert (done.returncode, done.stderr.count("\n")) == (32, 1)


# -- systemd -------------------------------------------------------------------------------------------


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return {"LABFS_STATE_DIR": str(tmp_path / "state"), "LABFS_CACHE_DIR": str(tmp_path / "kept")}


def lines_of(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


def words_of(line: str) -> list[str]:
    """Return the words of a line of a unit, as systemd reads them."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


@pytest.mark.parametrize("options", [[], ["--system", "--user", "root", "--allow-other", "--read-only"]])
def test_a_unit_is_valid(options: list[str], sandbox: Sandbox, tmp_path: Path, env: dict[str, str]) -> None:
    where = tmp_path / 'my "lab" 100% $HOME'
    made = typed("unit", *options, "-c", sandbox.config, "--site", "portal", where, env=env)
    assert made.returncode == 0, made.stderr
    assert words_of(lines_of(made.stdout, "ExecStart")[0])[-1] == str(where)
    assert ("network-online.target" in made.stdout) == ("--system" in options), "users' managers have no such target"
    assert lines_of(made.stdout, "User") == (["root"] if options else [])
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "labfs.service"
    unit.write_text(made.stdout)
    checked = ["systemd-analyze", "verify", *([] if options else ["--user"]), "--recursive-errors=no", str(unit)]
    done = subprocess.run(checked, capture_output=True, text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_unit_starts_the_program_that_printed_it(sandbox: Sandbox, tmp_path: Path) -> None:
    script = PROGRAMS / "labfs"
    done = subprocess.run([script, "unit", "-c", sandbox.config, tmp_path / "mnt"], capture_output=True, text=True)
    commands = [line for key in ("ExecStart", "ExecStop") for line in lines_of(done.stdout, key)]
    assert [words_of(line)[:2] for line in commands] == [[str(script), "mount"], [str(script), "umount"]]


def test_a_unit_that_cannot_work_is_not_printed(sandbox: Sandbox, tmp_path: Path, env: dict[str, str]) -> None:
    for words, sentence in (
        (["--user", "root"], "--user needs --system"),
        (["--system", "--user", "nobody-at-all"], "has no user nobody-at-all"),
        (["--site", "nowhere"], "There is no site “nowhere”"),
    ):
        done = typed("unit", *words, "-c", sandbox.config, tmp_path / "mnt", env=env)
        assert (done.returncode, done.stdout) == (1, "")
        assert sentence in done.stderr
    assert typed("unit", "-c", sandbox.config, f"{tmp_path}/a\nb", env=env).returncode == 1


@pytest.mark.parametrize("abstract", [False, True])
def test_a_unit_says_when_it_serves_and_stops_in_order(
    abstract: bool, sandbox: Sandbox, tmp_path: Path, env: dict[str, str]
) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    unit = typed("unit", "-c", sandbox.config, "--site", "portal", where, env=env).stdout
    address = f"@labfs-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(30)
        variables = dict(words_of(line)[0].split("=", 1) for line in lines_of(unit, "Environment"))
        assert variables == env
        around = {**os.environ, **variables}
        start, stop = (words_of(*lines_of(unit, key)) for key in ("ExecStart", "ExecStop"))
        service = subprocess.Popen(start, env={**around, "NOTIFY_SOCKET": address}, stdout=subprocess.DEVNULL, cwd="/")
        try:
            told = manager.recv(4096).decode()
            assert told == f"READY=1\nSTATUS=Mounted portal at {where}."
            assert mounted(where)
            assert os.listdir(where) == ["portal"]
            assert subprocess.run(stop, env=around, capture_output=True, cwd="/").returncode == 0
            assert service.wait(30) == 0, "so that it is not started again"
            assert not mounted(where)
        finally:
            service.kill()
            service.wait()
            if mounted(where):
                subprocess.run(["fusermount3", "-u", "-z", where], check=False)


def test_a_manager_that_is_gone_ends_no_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notify.ready("Mounted.")
    assert not caplog.text
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.ready("Mounted.")
    assert "No such file or directory" in caplog.text


# -- shells --------------------------------------------------------------------------------------------


def completed(*words: str, tmp_path: Path) -> list[str]:
    """Return what bash offers for the last word."""
    script = f"""
        source <({shlex.quote(str(PROGRAMS / "labfs"))} completion bash)
        COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
        compopt() {{ echo "$2"; }}
        _labfs_completion labfs
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PATH": path}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_options_and_paths(tmp_path: Path) -> None:
    assert set(completed("labfs", "", tmp_path=tmp_path)) == set(cli.commands)
    assert completed("labfs", "outbox", "re", tmp_path=tmp_path) == ["retry"]
    assert completed("labfs", "mount", "--re", tmp_path=tmp_path) == ["--read-only"]
    assert completed("labfs", "mount", "", tmp_path=tmp_path) == ["dirnames"]
    assert completed("labfs", "why", "", tmp_path=tmp_path) == ["default"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_script(shell: str, tmp_path: Path) -> None:
    script = typed("completion", shell).stdout
    assert f"_LABFS_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        assert subprocess.run([shell, "-n", tmp_path / "script"]).returncode == 0
