"""Where an answer ends with its connection: whether all of a file came is then proved, or not believed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from contract import Basket

from labfs import errors
from labfs.http.client import Client
from labfs.http.codings import ends_surely

BYTES = bytes(range(250))


class OldServer:
    """Speaks HTTP/1.0 and names no length; `cuts` are the bytes after which its next answers end."""

    def __init__(self, *cuts: int) -> None:
        self.cuts = list(cuts)
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while not connection.recv(65536).endswith(b"\r\n\r\n"):
                    pass
                self.asked += 1
                body = BYTES[: self.cuts.pop(0)] if self.cuts else BYTES
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n" + body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


async def gathered(server: OldServer, size: int | None = None) -> bytes:
    client, sink = Client("hub", server.url, dict, timeout_s=0.5), Basket()
    try:
        await client.pour_own("file", sink, size=size)
        return bytes(sink.data)
    finally:
        await client.aclose()


@pytest.fixture
def old() -> Iterator[type[OldServer]]:
    made: list[OldServer] = []

    class Made(OldServer):
        def __init__(self, *cuts: int) -> None:
            super().__init__(*cuts)
            made.append(self)

    yield Made
    for server in made:
        server.close()


async def test_a_file_of_unknown_size_is_fetched_until_two_passes_end_alike(old: type[OldServer]) -> None:
    for cuts, asked in (((), 2), ((100,), 3), ((100, 200), 4)):
        server = old(*cuts)
        assert (await gathered(server), server.asked) == (BYTES, asked)


async def test_one_of_known_size_needs_no_second_pass_and_is_never_cut(old: type[OldServer]) -> None:
    server = old()
    assert (await gathered(server, len(BYTES)), server.asked) == (BYTES, 1)
    server = old(100)
    assert (await gathered(server, len(BYTES)), server.asked) == (BYTES, 2)


async def test_less_than_came_before_is_said(old: type[OldServer]) -> None:
    with pytest.raises(errors.Unavailable, match="sent 250 bytes, then 100, and does not say how many"):
        await gathered(old(250, 100))


@pytest.mark.parametrize(
    ("version", "headers", "surely"),
    [
        ("HTTP/1.0", {}, False),
        ("HTTP/1.1", {}, False),
        ("HTTP/1.0", {"content-length": "3"}, True),
        ("HTTP/1.1", {"transfer-encoding": "gzip, Chunked"}, True),
        ("HTTP/2.0", {}, True),
        ("HTTP/3.0", {}, True),
    ],
)
def test_what_marks_an_end(version: str, headers: dict[str, str], surely: bool) -> None:
    assert ends_surely(version, headers) == surely
