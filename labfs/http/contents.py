"""The contents of files: behind a site's own address, with its credentials, or behind one that is signed and expires.

A signed address is requested once, cached until shortly before its expiry, and requested again on 403.

Tests: unit/test_client, backends/test_backends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from labfs.backend import Sink, Stretch
from labfs.errors import Denied, Malformed
from labfs.http.client import Answer, Client

T = TypeVar("T")

MARGIN_S = 60.0  # before its expiry, in which an address is no longer used
UNKNOWN_S = 600.0  # for which an address with unknown expiry is used


@dataclass(frozen=True, slots=True)
class Address:
    url: str = field(repr=False)
    until: float  # on trio's clock


def address(url: str, answer: Answer, expires_s: float | None) -> Address:
    """Return the address with its lifetime by the server's clock; `expires_s` is in seconds since 1970."""
    lives_s = UNKNOWN_S if expires_s is None else max(expires_s - answer.now_s, 0.0)
    return Address(url, trio.current_time() + max(lives_s - MARGIN_S, lives_s * 0.8))


class Presigned:
    """The content of one version of a file, of `size` bytes if known; `ask` requests a new signed address."""

    def __init__(
        self, client: Client, version: str | None, ask: Callable[[], Awaitable[Address]], size: int | None = None
    ) -> None:
        self._client = client
        self._version = version
        self._size = size
        self._ask = ask
        self._address: Address | None = None
        self._lock = trio.Lock()

    async def prepare(self) -> None:
        await self._locate()

    async def stream(self, stretch: Stretch) -> None:
        await self._asking(lambda url: self._client.stream(url, stretch, self._version, self._size))

    async def pour(self, sink: Sink) -> None:
        await self._asking(lambda url: self._client.pour(url, self._version, sink, self._size))

    async def measure(self) -> int | None:
        """Return the size in bytes; None if the file store does not tell."""
        return await self._asking(self._client.measure)

    async def _asking(self, use: Callable[[str], Awaitable[T]]) -> T:
        address = await self._locate()
        try:
            return await use(address.url)
        except Denied:
            # Expired early, by another clock, or revoked. A second refusal is final.
            if self._address is address:
                self._address = None
        address = await self._locate()
        try:
            return await use(address.url)
        except Denied as error:
            refused = f"{self._client.site} gave out an address that its file store refuses"
            raise Malformed(f"{refused}: {error.said}") from error

    async def _locate(self) -> Address:
        async with self._lock:
            if self._address is None or trio.current_time() >= self._address.until:
                self._address = await self._ask()
            return self._address


class Direct:
    """The content of a file behind `path` of its site; `size` is in bytes, if known."""

    def __init__(self, client: Client, path: str, size: int | None = None) -> None:
        self._client = client
        self._path = path
        self._size = size

    async def prepare(self) -> None:
        """Nothing to do: the address is known."""

    async def stream(self, stretch: Stretch) -> None:
        await self._client.stream_own(self._path, stretch, self._size)

    async def pour(self, sink: Sink) -> None:
        await self._client.pour_own(self._path, sink, size=self._size)
