"""Apache httpd before a lab's services, as institutes put it there: a path, another host name, TLS, an older HTTP."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from between import listener

MODULES = ("mpm_event", "authz_core", "alias", "env", "proxy", "proxy_http", "rewrite", "setenvif", "ssl", "substitute")
COMMON = """
ServerRoot {base}
ServerName reverse.invalid
PidFile {base}/httpd.pid
ErrorLog {base}/error.log
LogLevel warn
TraceEnable Off
# One process, so that its log is in order.
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
"""


@dataclass(frozen=True)
class Style:
    """How the services are shown.

    `host` has its brackets where it is IPv6; behind a `path` all of a service lies; with `tls` (a certificate) plain
    http is answered by a redirect; `old` speaks HTTP/1.0 and tells no lengths; `answers` are those on one connection.
    """

    host: str = "localhost"
    path: str = ""
    tls: Path | None = None
    old: bool = False
    answers: int = 100


class Reverse:
    """A running httpd before services, given by name with their addresses; `urls` are the addresses that it shows."""

    def __init__(self, base: Path, services: dict[str, str], style: Style) -> None:
        self._base, self._style = base, style
        self._log = base / "access.log"
        self.urls: dict[str, str] = {}
        self._owner: dict[int, str] = {}  # by port
        base.mkdir()
        lines = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES]
        if os.getuid() == 0:
            lines += ["User www-data", "Group www-data"]
        lines.append(COMMON.format(base=base))
        for name, url in services.items():
            lines += self._service(name, url)
        conf = base / "httpd.conf"
        conf.write_text("\n".join(lines))
        self._process = subprocess.Popen(
            ["/usr/sbin/apache2", "-D", "FOREGROUND", "-f", str(conf)], stderr=subprocess.PIPE, text=True
        )
        self._wait()

    def _service(self, name: str, url: str) -> list[str]:
        style, port, lines = self._style, self._free(), list[str]()
        self.urls[name] = f"http://{style.host}:{port}{style.path}"
        listens = f"{style.host if style.host.startswith('[') else '127.0.0.1'}:"
        if style.tls is not None:
            secure = self._free()
            lines += self._host(f"{listens}{port}", [
                "RewriteEngine On",
                f"RewriteRule ^ https://{style.host}:{secure}%{{REQUEST_URI}} [R=301,L,NE]",
            ])  # fmt: skip
            port = secure
        self._owner[port] = name
        inner = [
            f"ProxyPass {style.path}/ {url}/ nocanon",
            f"ProxyPassReverse {style.path}/ {url}/",
            f"MaxKeepAliveRequests {style.answers}",
        ]
        if style.tls is not None:
            inner += ["SSLEngine On", f"SSLCertificateFile {style.tls}"]
        if style.old:
            inner += [
                "SetEnv downgrade-1.0 1",
                "SetEnv force-response-1.0 1",
                "SetEnv nokeepalive 1",
                "SubstituteMaxLineLength 100m",
                "SetOutputFilter SUBSTITUTE",
                'Substitute "s|what is nowhere|at all|n"',
            ]
        return lines + self._host(f"{listens}{port}", inner)

    def _host(self, where: str, inner: list[str]) -> list[str]:
        return [
            f"Listen {where}",
            f"<VirtualHost {where}>",
            "ServerName reverse.invalid",
            "AllowEncodedSlashes NoDecode",
            f"CustomLog {self._log} '%{{local}}p %m %>s %U'",
            *inner,
            "</VirtualHost>",
        ]

    def _free(self) -> int:
        with contextlib.closing(listener(5)) as found:
            port: int = found.getsockname()[1]
        return port

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while not (self._base / "httpd.pid").exists():
            assert self._process.poll() is None and time.monotonic() < deadline, self.errors
            time.sleep(0.02)

    @property
    def errors(self) -> str:
        log = self._base / "error.log"
        return (log.read_text() if log.exists() else "") + ("" if self._process.poll() is None else self._said())

    def _said(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read()

    def requests(self) -> Counter[str]:
        """Return how many requests each service was sent through here; redirects are none."""
        ports = [int(line.partition(" ")[0]) for line in self._log.read_text().splitlines()]
        return Counter(self._owner[port] for port in ports if port in self._owner)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        assert self._process.stderr is not None
        self._process.stderr.close()
