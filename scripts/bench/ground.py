"""One case's ground: a directory with its files, nginx before them, the hub beside it, and the network before both."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import free_port, listens, process, server
from bench.programs import Programs

MIB = 1024 * 1024
CHUNK = 8 * MIB
RTT_S, MBIT = 0.040, 400  # of the far network, for each connection

NGINX = """daemon off; pid {home}/nginx.pid; {user} worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; }}
}}
"""


@dataclass(frozen=True)
class Services:
    """Addresses as clients see them; `hub` is the hub without the network between."""

    data: str
    api: str
    hub: str


class Ground:
    """A directory of one case; `scale` is the fraction of all sizes and counts."""

    def __init__(self, base: Path, programs: Programs, scale: float) -> None:
        self.base = base
        self.programs = programs
        self.scale = scale
        self.root = base / "data"
        self.root.mkdir()

    def size(self, mib: int) -> int:
        """Return so many MiB in bytes, scaled: whole MiB, at least 8."""
        return max(round(mib * self.scale), 8) * MIB

    def count(self, number: int) -> int:
        return max(round(number * self.scale), 10)

    def limit(self, seconds: float) -> float:
        """Return a limit of time for something whose amount is scaled."""
        return seconds * self.scale

    def words(self, title: str) -> str:
        return title if self.scale == 1 else f"{title}, × {self.scale:g}"

    def scratch(self, prefix: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.base))

    def file(self, folder: str, name: str, size: int) -> Path:
        """Make a file of random bytes that a record of the hub, and a folder of nginx, holds."""
        path = self.root / folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, CHUNK):
                file.write(random.randbytes(min(CHUNK, size - start)))
        return path

    def hollow(self, folder: str, name: str, size: int) -> Path:
        """Make a file that takes no room on the disk: zeros, for what is read once and whose bytes do not matter."""
        path = self.root / folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.truncate(path, size)
        return path

    @contextlib.contextmanager
    def services(
        self, *, far: bool = False, generated: Sequence[int] = (), records: int = 0, own_bytes: bool = False
    ) -> Iterator[Services]:
        """Serve the files as they are now; `own_bytes` lets the hub serve them itself and count what is asked for."""
        with contextlib.ExitStack() as stack:
            data = ""
            if not own_bytes:
                port = stack.enter_context(self._nginx())
                data = local(stack.enter_context(relay(port)) if far else port)
            counts = ["--generated", *generated, "--records", records]
            hub = stack.enter_context(server("hub", "--root", self.root, "--data", data, *counts))
            api = stack.enter_context(relay(hub)) if far else hub
            yield Services(data, local(api), local(hub))

    @contextlib.contextmanager
    def _nginx(self) -> Iterator[int]:
        home, port = self.scratch("nginx"), free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        config = home / "nginx.conf"
        config.write_text(NGINX.format(home=home, user=user, port=port, root=self.root))
        command = (self.programs.nginx, "-e", home / "error.log", "-p", home, "-c", config)
        with process(*command, ready=lambda: listens(port)):
            yield port


def local(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def relay(target: int) -> contextlib.AbstractContextManager[int]:
    return server("network", "--target", target, "--rtt-ms", RTT_S * 1000, "--mbit", MBIT)


def warm(path: Path) -> None:
    """Read a file once, so that no disk has a part in what follows."""
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK):
            pass


def cold() -> None:
    """Let the kernel forget the contents of files; an ordinary user cannot."""
    os.sync()
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # in a container
            Path("/proc/sys/vm/drop_caches").write_text("3")
