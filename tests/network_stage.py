"""A lab's network: what stands between, as processes of `between.py`, and an authority of its own."""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme

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
