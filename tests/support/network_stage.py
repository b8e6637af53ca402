"""A lab's network: what stands between, as processes of `between.py`, an authority of its own, and a site behind it all."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trustme

from labfs.backend import Buffer, Stretch
from labfs.http.client import Client, Request

PAST = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
FUTURE = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)
# No test is led astray by the machine that it runs on.
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
STORES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
NOTHING = dict.fromkeys((*PROXIES, *(name.upper() for name in PROXIES), *STORES), "")


class Between:
    """One process; `events` are what it told so far."""

    def __init__(self, *arguments: str | Path | int) -> None:
        command = [sys.executable, Path(__file__).with_name("between.py"), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.ports: list[int] = json.loads(self._process.stdout.readline())["ports"]
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def asked(self) -> int:
        """How many requests or connections were carried."""
        return sum("to" in event for event in self.events)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))

    def __enter__(self) -> Between:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Authority:
    """A private authority, and certificates that it has signed, as files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA(organization_name="The institute")
        self.file = directory / "institute.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def certificate(self, *names: str, **options: Any) -> Path:
        made = self._authority.issue_cert(*(names or ("localhost", "127.0.0.1", "*.lab.test")), **options)
        path = self._directory / f"{made.cert_chain_pems[0].bytes().__hash__():x}.pem"
        made.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path


@contextlib.contextmanager
def processes() -> Iterator[Any]:
    """Yield what starts a process, and end all of them."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Between(*arguments))


class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        assert "Proxy-Authorization" not in self.headers
        body = b"some bytes of a file"
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Bed:
    """A site by http and by https, and every kind of proxy; those with a password have one that is hard to write."""

    PASSWORD = "p@ss/w%rd:é"

    def __init__(self, directory: Path, start: Callable[..., Between]) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.authority = Authority(directory)
        certificate = self.authority.certificate()
        http_port = self.server.server_port
        self.front: Between = start("front", "--tls", certificate, "--to", http_port)
        # Names that the proxies alone can look up.
        hosts = [f"--host={name}.lab.test={port}" for name, port in (("plain", http_port), ("tls", self.front.port))]
        self.proxies: dict[str, Between] = {
            "forward": start("forward", *hosts),
            "locked": start("forward", "--auth", f"ada:{self.PASSWORD}", *hosts),
            "tlsproxy": start("forward", "--tls", certificate, *hosts),
            "socks": start("socks", *hosts),
            "socks4": start("socks", "--versions", "4", *hosts),
            "guarded": start("socks", "--auth", "ada:p@ss/w%rd", *hosts),
        }
        self.places = {"HTTP": f"localhost:{http_port}", "TLS": f"localhost:{self.front.port}"}
        self.places |= {name: f"127.0.0.1:{proxy.port}" for name, proxy in self.proxies.items()}
        self.places["gone"] = "127.0.0.1:1"

    def add(self, name: str, proxy: Between) -> None:
        self.proxies[name], self.places[name] = proxy, f"127.0.0.1:{proxy.port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def filled(self, text: str) -> str:
        for name, place in self.places.items():
            text = text.replace(f"<{name}>", place).replace(f"<{name}:>", place.partition(":")[2])
        return text

    def env(self, text: str) -> dict[str, str]:
        return NOTHING | dict(self.filled(item).split("=", 1) for item in text.split(" & ") if item)

    def route(self, expected: str) -> str:
        """Return which proxies carried something since the last look, once it is known."""
        deadline = time.monotonic() + (0.02 if expected == "direct" else 5)
        while time.monotonic() < deadline and not any(proxy.asked for proxy in self.proxies.values()):
            time.sleep(0.002)
        names = [name for name, proxy in self.proxies.items() if proxy.asked]
        for proxy in self.proxies.values():
            proxy.events.clear()
        return " ".join(names) or "direct"


class Sink:
    received = 0

    def begin(self, size: int | None) -> None:
        pass

    def write(self, chunk: object) -> None:
        assert bytes(chunk) == b"some bytes of a file"  # type: ignore[call-overload]


async def _api(client: Client, url: str) -> None:
    assert (await client.call(Request("GET", url))).body == b"some bytes of a file"


async def _block(client: Client, url: str) -> None:
    assert bytes(await ranged(client, url, 0, 20, None)) == b"some bytes of a file"


async def _form(client: Client, url: str) -> None:
    await client.pour_own(url, Sink(), form={"content": "file"})


WAYS = (_api, _block, _form)  # the three ways that bytes travel


async def ranged(
    client: Client, url: str, start: int, stop: int, version: str | None, size: int | None = None
) -> bytes:
    """Fetch the bytes `[start, stop)` behind an address."""
    pieces: list[Buffer] = []
    stretch = Stretch(start, stop, stop - start, lambda offset, piece: pieces.append(piece))
    await client.stream(url, stretch, version, size)
    return b"".join(pieces)
