"""What the tests play on: a sandbox, mounts of it, and plain helpers to look behind both."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import httpx

from labfs.cli import main as cli
from labfs.daemon import control
from labfs.sandbox.basespace.switches import Switches

TIMEOUT_S = 90
RECORD = os.environ.get("LABFS_RECORD", "appresults")  # the kind of a fresh record; or "datasets"


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something is true; an OSError counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Sandbox:
    """A running sandbox, seen from its control origin, its API and its store: never through labfs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        known = json.loads((directory / "sandbox.json").read_text())
        self.control: str = known["control"]
        self.url: str = known["sites"]["basespace"]
        self.blobs: str = known["blobs"]
        self.token: str = known["credentials"]["basespace"]["token"]
        self.config = directory / "labfs.toml"
        self._http = httpx.Client(timeout=30, trust_env=False, verify=False)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._http.close()

    def calm(self) -> None:
        """No faults, the usual switches or those of LABFS_SWITCHES (JSON), counters at zero."""
        self._http.delete(f"{self.control}/faults").raise_for_status()
        self.switch(**asdict(Switches()))
        self.switch(**json.loads(os.environ.get("LABFS_SWITCHES", "{}")))
        self.reset()

    def faults(self, *faults: dict[str, Any]) -> None:
        self._http.post(f"{self.control}/faults", json=list(faults)).raise_for_status()

    def switch(self, **values: Any) -> None:
        self._http.post(f"{self.control}/switches", json={"basespace": values}).raise_for_status()

    def reset(self) -> None:
        self._http.post(f"{self.control}/reset").raise_for_status()

    def requests(self) -> Counter[str]:
        """Return the number of requests since the reset, by `METHOD route`."""
        report = self._http.get(f"{self.control}/requests").json()
        counts: Counter[str] = Counter()
        for row in report["requests"]:
            counts[f"{row['method']} {row['route']}"] += row["count"]
        return counts

    def report(self) -> dict[str, Any]:
        """Return all counters since the reset."""
        found: dict[str, Any] = self._http.get(f"{self.control}/requests").json()
        return found

    def log(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get(f"{self.control}/log").json()
        return found

    def settled(self) -> bool:
        """Whether all that the services were asked since the reset is carried out, answered and counted."""
        report = self.report()
        return len(self.log()) <= report["total"] and not report.get("late")

    def api(self, method: str, path: str, **options: Any) -> Any:
        """Ask the service itself; return the `Response` of its answer."""
        headers = {"x-access-token": self.token, **options.pop("headers", {})}
        answer = self._http.request(method, f"{self.url}/v1pre3/{path}", headers=headers, **options)
        answer.raise_for_status()
        return answer.json()["Response"]

    def project(self, name: str) -> str:
        return str(self.api("POST", "projects", json={"Name": name})["Id"])

    def record(self, project: str, name: str) -> str:
        return str(self.api("POST", f"projects/{project}/appresults", json={"Name": name})["Id"])

    def second(self, method: str, path: str, **options: Any) -> Any:
        """Ask version 2 of the service itself."""
        headers = {"x-access-token": self.token}
        answer = self._http.request(method, f"{self.url}/v2/{path}", headers=headers, **options)
        answer.raise_for_status()
        return answer.json()

    def dataset(self, project: str, name: str) -> str:
        """Make a dataset of an analysis that goes on; return its id."""
        session = self.second("POST", "appsessions", json={"Name": name})["Id"]
        asked = {"Name": name, "AppSessionId": session, "DatasetTypeId": "common.files", "Attributes": {}}
        return str(self.second("POST", f"projects/{project}/datasets", json=asked)["Id"])

    def put(self, record: str, path: str, data: bytes) -> str:
        """Upload a file behind labfs's back; return its id."""
        if record.startswith("ds."):
            return self._put_second(record, path, data)
        directory, _, name = path.rpartition("/")
        params = {"name": name, "directory": directory}
        headers = {"Content-Type": "application/octet-stream"}
        return str(self.api("POST", f"appresults/{record}/files", params=params, content=data, headers=headers)["Id"])

    def _put_second(self, dataset: str, path: str, data: bytes) -> str:
        offer = self.second("GET", f"datasets/{dataset}/file-upload-info?filepath={quote(path)}&uploadpartcount=1")
        method = {"x-amz-server-side-encryption": offer["ServerSideEncryptionMethod"]}
        stored = self._http.put(offer["SinglePartUrl"], content=data, headers=method)
        stored.raise_for_status()
        report = {"UploadId": offer["MultipartUploadId"], "FilePath": path, "Size": len(data),
                  "PartEtags": [{"Part": 1, "Etag": stored.headers["etag"].strip('"')}],
                  "ContentType": "application/octet-stream"}  # fmt: skip
        return str(self.second("POST", f"datasets/{dataset}/file-upload-info", json=report)["Id"])

    def rows(self, record: str, status: str = "complete") -> list[dict[str, Any]]:
        """Return the files of a record straight from the store, the one that was made first first."""
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            sql = "SELECT * FROM files WHERE record = ? AND status = ? ORDER BY made"
            return [dict(row) for row in db.execute(sql, (row_of(record), status))]

    def stored(self, record: str) -> dict[str, bytes]:
        """Return the bytes of the file made last of each path of a record, straight from the blob store."""
        return {row["path"]: (self.directory / "blobs" / row["blob"]).read_bytes() for row in self.rows(record)}

    def fresh(self, kind: str = RECORD) -> Folder:
        """Make a record for one test: an app result, or a dataset, which version 2 alone knows."""
        name = f"Project {next(self._numbers)} of {os.getpid()}"
        make = self.dataset if kind == "datasets" else self.record
        return Folder(self, name, "Record", make(self.project(name), "Record"))


def row_of(record: str) -> int:
    """Return the number of a record's row: datasets tell theirs in hex."""
    return int(record.removeprefix("ds."), 16) if record.startswith("ds.") else int(record)


class Folder:
    """A record made for one test: where it is in the tree, and what is behind it."""

    def __init__(self, sandbox: Sandbox, project: str, name: str, record: str) -> None:
        self.sandbox = sandbox
        self.project = project
        self.name = name
        self.record = record

    def at(self, mountpoint: Path) -> Path:
        return mountpoint / "basespace" / self.project / self.name

    def put(self, path: str, data: bytes) -> str:
        return self.sandbox.put(self.record, path, data)

    @property
    def stored(self) -> dict[str, bytes]:
        return self.sandbox.stored(self.record)

    def erase(self) -> None:
        """Free the disk of all that is stored, and of uploads that were given up."""
        with contextlib.closing(sqlite3.connect(self.sandbox.directory / "sandbox.sqlite")) as db:
            whole = db.execute("SELECT blob FROM files WHERE record = ?", (row_of(self.record),)).fetchall()
            sql = "SELECT parts.blob FROM parts JOIN files ON files.id = parts.file WHERE files.record = ?"
            parts = db.execute(sql, (row_of(self.record),)).fetchall()
        for (blob,) in [*whole, *parts]:
            if blob:
                (self.sandbox.directory / "blobs" / blob).unlink(missing_ok=True)

    @property
    def paths(self) -> list[str]:
        """The paths of all complete files, one for each upload."""
        return [row["path"] for row in self.sandbox.rows(self.record)]


def labfs(*arguments: str | Path, env: dict[str, str] | None = None, timeout: float = TIMEOUT_S) -> Any:
    """Run the command line as a user does, in a process of its own."""
    words = [sys.executable, "-m", "labfs", *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=environment)


def typed(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line here, without the start of an interpreter; `mount` would make the daemon our child."""
    words, out, err = ["labfs", *map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ, env or {}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status: Any = None
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def run(command: str, cwd: Path | None = None, timeout: float = TIMEOUT_S) -> Any:
    """Run a shell command; its working directory may be in a mount, this process's never is."""
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=timeout, cwd=cwd)


def mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


class Mount:
    """A mount by the command line, with a state directory of its own."""

    def __init__(self, base: Path, config: Path, *options: str) -> None:
        self.path = base / "mnt"
        self.state = base / "state"
        self.path.mkdir(exist_ok=True)
        # A cache of its own, too: another sandbox gives the same ids to other files.
        self.env = {"LABFS_STATE_DIR": str(self.state), "LABFS_CACHE_DIR": str(base / "kept"), "LABFS_LOG": "DEBUG"}
        self._config = config
        self._options = options

    def start(self) -> Mount:
        done = labfs("mount", "-c", self._config, *self._options, self.path, env=self.env)
        assert done.returncode == 0, done.stderr
        return self

    def stop(self) -> Any:
        return typed("umount", self.path, env=self.env)

    def status(self) -> Any:
        return json.loads(typed("status", "--json", env=self.env).stdout)["mounts"][0]

    @property
    def pid(self) -> int:
        return int(json.loads(next(self.state.glob("mounts/*/mount.json")).read_text())["pid"])

    @property
    def spooled(self) -> list[Path]:
        return sorted(self.state.glob("mounts/*/spool/*.data"))

    def discard(self) -> None:
        """Free the disk of saves that failed."""
        for path in self.spooled:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    @property
    def log(self) -> str:
        return next(self.state.glob("mounts/*/log")).read_text()

    def refresh(self, path: Path | None = None) -> None:
        """Do what `labfs refresh` does."""
        inside = f"/{(path or self.path).relative_to(self.path).as_posix()}"
        self.ask(op="refresh", path=inside.rstrip("."))

    def ask(self, **request: Any) -> Any:
        """Ask the daemon, as a command does."""
        return control.ask(next(self.state.glob("mounts/*/control")), request)

    def clean_up(self) -> None:
        """Leave nothing behind, whatever happened."""
        with contextlib.suppress(Exception):
            self.stop()
        if mounted(self.path):
            subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False)
        with contextlib.suppress(Exception):
            for _ in range(100):
                os.kill(self.pid, 0)
                time.sleep(0.05)
            os.kill(self.pid, 9)


def start_sandbox(directory: Path) -> tuple[subprocess.Popen[str], Sandbox]:
    command = [sys.executable, "-m", "labfs", "sandbox", "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready"), line
    return process, Sandbox(directory)
