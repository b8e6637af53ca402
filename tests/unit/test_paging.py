"""Pages of a list: how large, how many at once, and what becomes of those that come short."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from labfs.backends.paging import AT_ONCE, FIRST, Paging
from labfs.errors import Unavailable

MOST = 1024


class Server:
    """A list of numbers; a page takes a round trip and so long for each row, and has `most` rows at most."""

    def __init__(self, total: int, trip_s: float = 0.04, row_s: float = 0.0, most: int = MOST) -> None:
        self.total, self.trip_s, self.row_s, self.most = total, trip_s, row_s, most
        self.asked: list[tuple[int, int]] = []
        self.under_way = self.most_at_once = 0
        self.short: dict[int, int] = {}  # offset → rows that a page from there has instead, once

    async def page(self, offset: int, rows: int) -> tuple[list[Any], int]:
        self.asked.append((offset, rows))
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        rows = min(rows, self.most, self.short.pop(offset, rows))
        found = list(range(self.total))[offset : offset + rows]
        await trio.sleep(self.trip_s + len(found) * self.row_s)
        self.under_way -= 1
        return found, self.total


async def listed(server: Server) -> list[int]:
    found: list[int] = []
    cursor: str | None = None
    while True:
        paging = Paging.at(cursor)
        rows, total = await paging.joined(server.page)
        found += rows
        cursor = paging.then(len(rows), total, MOST)
        if cursor is None:
            return found


async def test_a_far_list_costs_a_round_trip_for_eight_pages(autojump_clock: MockClock) -> None:
    server, began = Server(100_000), trio.current_time()
    assert await listed(server) == list(range(100_000))
    pages = 1 + -(-(100_000 - FIRST) // MOST)
    assert (len(server.asked), server.most_at_once) == (pages, AT_ONCE)
    assert trio.current_time() - began <= 2.5 * (pages / AT_ONCE) * server.trip_s


async def test_a_slow_server_is_asked_for_one_page_at_a_time(autojump_clock: MockClock) -> None:
    server = Server(5_000, row_s=0.01)
    assert await listed(server) == list(range(5_000))
    assert server.most_at_once == 1


async def test_pages_that_are_cut_leave_no_gap(autojump_clock: MockClock) -> None:
    server = Server(5_000, most=700)  # whatever is asked for
    assert await listed(server) == list(range(5_000))
    server = Server(20_000)
    server.short = {FIRST + 2 * MOST: 10, FIRST + 5 * MOST: 0}
    assert await listed(server) == list(range(20_000))


async def test_an_error_of_one_page_is_the_error_itself() -> None:
    async def ask(offset: int, rows: int) -> tuple[list[Any], int]:
        if offset == 1000 + 3 * 10:
            raise Unavailable("away")
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(Unavailable, match="away"):
        await Paging.at("1000+10*8").joined(ask)


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(0, 3000), most=st.integers(20, 1024),
    short=st.dictionaries(st.integers(0, 3000), st.integers(1, 50), max_size=20),
)  # fmt: skip
def test_every_row_comes_once_however_pages_are_cut(total: int, most: int, short: dict[int, int]) -> None:
    async def run() -> None:
        server = Server(total, trip_s=0.0, most=most)
        server.short = short
        assert await listed(server) == list(range(total))

    trio.run(run)
