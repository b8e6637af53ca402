"""A real Redis, and worker processes that stand for machines: each has its own state and caches, and shares the Redis."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from stage import until

# What a worker runs: each line is Python, whose `result` is the answer, or the errno and the text of its OSError.
WORKER = """
import json, logging, sys, time
import labfs.shared.tier
labfs.shared.tier.FIRST_REST_S = 0.3
from labfs.fsspec.core import core_of
from labfs.fsspec.filesystem import LabFileSystem
said = []
class Handler(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("labfs").addHandler(Handler())
logging.getLogger("labfs").setLevel(logging.INFO)
fs, kept = LabFileSystem(), {}
for line in sys.stdin:
    names = {"fs": fs, "kept": kept, "said": said, "core_of": core_of, "time": time}
    try:
        exec(json.loads(line), names)
        answer = {"result": names.get("result")}
    except Exception as error:
        answer = {"errno": getattr(error, "errno", 0), "text": str(error) if isinstance(error, OSError) else repr(error)}
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
"""


BLOCK = re.compile(rb"labfs:1:[0-9a-f]{32}:[0-9a-f]{32}:[0-9]+")


class Refused(Exception):
    """What a worker asked for failed: `errno` and a sentence."""

    def __init__(self, errno: int, text: str) -> None:
        super().__init__(text)
        self.errno = errno


class Store:
    """A redis-server of one's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.client = redis.Redis(port=self.port)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str) -> Store:
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.directory]
        self.process = subprocess.Popen([*words, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            try:
                return bool(self.client.ping())
            except redis.RedisError:
                return False

        until(answers)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def calm(self) -> None:
        """Run, with nothing in it and no limit."""
        if self.process is None:
            self.start()
        self.client.config_set("maxmemory", 0)
        self.client.flushall()

    @property
    def keys(self) -> list[bytes]:
        return list(self.client.scan_iter(count=10_000))

    @property
    def blocks(self) -> list[bytes]:
        """The keys of the blocks in it."""
        return [key for key in self.keys if BLOCK.fullmatch(key)]


class Worker:
    """A process with an fsspec file system, as on a machine of its own."""

    def __init__(self, base: Path, config: Path) -> None:
        self.base = base
        base.mkdir()
        own = {"LABFS_CONFIG": config, "LABFS_STATE_DIR": base / "state", "LABFS_CACHE_DIR": base / "cache"}
        env = {**os.environ, **{name: str(path) for name, path in own.items()}}
        words = [sys.executable, "-c", WORKER]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def do(self, code: str, **values: Any) -> Any:
        """Run Python there with some values; return its `result`. Raises Refused."""
        assert self.process.stdin is not None and self.process.stdout is not None
        given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        self.process.stdin.write(json.dumps(given + textwrap.dedent(code)) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "errno" in answer:
            raise Refused(answer["errno"], answer["text"])
        return answer["result"]

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def at_once(workers: list[Worker], code: str, **values: Any) -> list[Any]:
    """Run the same in all workers at the same time; return what each of them answered."""
    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(lambda worker: worker.do(code, **values), workers))


@contextmanager
def store(directory: Path) -> Iterator[Store]:
    assert shutil.which("redis-server"), "scripts/bootstrap --test installs redis-server"
    made = Store(directory)
    try:
        yield made.start()
    finally:
        made.client.close()
        made.kill()


def configured(config: Path, base: Path, url: str, mib: int = 64) -> Path:
    """Write a configuration that is the sandbox's, and shares a store."""
    made = base / "labfs.toml"
    text = config.read_text().replace('access = "write"', 'access = "full"')
    made.write_text(f'{text}\n[shared]\nurl = "{url}"\nmib = {mib}\n')
    made.chmod(0o600)
    return made


@contextmanager
def workers(base: Path, config: Path, count: int) -> Iterator[list[Worker]]:
    made: list[Worker] = []
    try:
        made += [Worker(base / f"worker-{number}", config) for number in range(count)]
        yield made
    finally:
        for worker in made:
            if worker.process.poll() is None:
                worker.end()
