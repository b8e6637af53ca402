"""File bytes that the site's own address serves, with its credentials, in ranges where it honours them."""

from __future__ import annotations

from labfs.backend import Buffer, Sink
from labfs.client import Client


class Direct:
    """The content of a file behind `path` of its site; `size` is in bytes, where it is known."""

    def __init__(self, client: Client, path: str, size: int | None = None) -> None:
        self._client = client
        self._path = path
        self._size = size

    async def prepare(self) -> None:
        """Nothing to do: the address is known."""

    async def read(self, start: int, stop: int) -> Buffer:
        return await self._client.fetch_own(self._path, start, stop, self._size)

    async def pour(self, sink: Sink) -> None:
        await self._client.pour_own(self._path, sink, size=self._size)
