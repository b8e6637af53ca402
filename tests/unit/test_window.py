"""A window grows while blocks are read in order, in few requests near a server and in many far away."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from labfs.backend import Stretch
from labfs.read.blocks import Blocks
from labfs.read.proof import Proof
from labfs.read.reader import Reader, Shared
from labfs.read.window import BLOCK, EAGER, FAR_STRETCH, LEAST, SHARE, STRETCH, Budget, Line, Turns, Window

MIB = 1 << 20
LAST = 9999


def opened(capacity: int = 128 * MIB, last: int = LAST, line: Line | None = None) -> Window:
    return Window(Budget(capacity), line or Line(), last)


def read(window: Window, count: int, start: int = 0) -> list[range]:
    return [
        wanted for index in range(start, start + count) for wanted in window.moved(index * BLOCK, (index + 1) * BLOCK)
    ]


async def test_the_first_bytes_of_a_file_fetch_one_block() -> None:
    window = opened()
    for start in range(0, EAGER, 4096):
        assert list(window.moved(start, start + 4096)) == [range(1)]
    assert list(window.moved(EAGER, EAGER + 4096)) == [range(1), range(1, 2), range(2, 3)]


@pytest.mark.parametrize(("delay_s", "most"), [(0.001, STRETCH), (0.02, FAR_STRETCH), (None, FAR_STRETCH)])
async def test_each_block_ahead_is_wanted_once_and_in_order(delay_s: float | None, most: int) -> None:
    line = Line()
    if delay_s is not None:
        line.answered(delay_s)
    window = opened(line=line)
    ahead = [wanted for index in range(200) for wanted in list(window.moved(index * BLOCK, (index + 1) * BLOCK))[1:]]
    blocks = [block for wanted in ahead for block in wanted]
    assert blocks == list(range(1, blocks[-1] + 1))
    assert max(map(len, ahead)) == most
    assert 199 + line.blocks - most < blocks[-1] <= 200 + line.blocks


async def test_the_window_is_full_after_five_reads() -> None:
    assert max(wanted.stop for wanted in read(opened(), 5)) >= LEAST


async def test_the_last_stretch_ends_with_the_file() -> None:
    assert max(block for wanted in read(opened(last=37), 30) for block in wanted) == 37


async def test_reads_here_and_there_fetch_one_block_each() -> None:
    window = opened()
    found = [list(window.moved(index * BLOCK, (index + 1) * BLOCK)) for index in (500, 20, 4000, 21, 7)]
    assert found == [[range(index, index + 1)] for index in (500, 20, 4000, 21, 7)]


async def test_a_far_line_has_more_in_flight_as_long_as_that_brings_more(autojump_clock: MockClock) -> None:
    line = Line()
    near = line.blocks
    line.answered(0.04)
    for _ in range(40):
        line.arrived(50 * MIB // 10)
        await trio.sleep(0.1)
    far = line.blocks
    assert near == LEAST
    assert LEAST + 8 <= far <= LEAST + 9, "four times 40 ms of 50 MiB a second"


async def test_a_rate_is_forgotten_when_less_comes(autojump_clock: MockClock) -> None:
    line = Line()
    line.answered(0.1)
    for size in [MIB] * 100 + [MIB // 100] * 100:
        line.arrived(10 * size)
        await trio.sleep(0.1)
    assert line.blocks <= LEAST + 1


async def test_readers_share_what_the_cache_holds(autojump_clock: MockClock) -> None:
    budget, line = Budget(64 * MIB), Line()
    windows = [Window(budget, line, LAST) for _ in range(8)]
    for index in range(50):
        for window in windows:
            wanted = list(window.moved(index * BLOCK, (index + 1) * BLOCK))
    assert wanted[-1].stop - 50 <= SHARE * 64 * MIB / BLOCK / 8
    await trio.sleep(2)
    alone = [block for wanted in read(windows[0], 20, 50) for block in wanted]
    assert max(alone) - 69 > 2 * SHARE * 64 / 8, "a reader that stopped keeps no share"


async def test_a_saturated_line_has_less_ahead() -> None:
    window = opened()
    read(window, 20)
    until = max(block for wanted in read(window, 10, 20) for block in wanted)
    for _ in range(10):
        window.slow()
    later = [block for wanted in list(window.moved(30 * BLOCK, 31 * BLOCK))[1:] for block in wanted]
    assert not later or max(later) <= until


async def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    turns, came = Turns(2), []
    release = trio.Event()

    async def work(number: int, turn: trio.Event) -> None:
        async with turns.taken(turn):
            came.append(number)
            await release.wait()

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(work, number, turns.ask())
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(came) == [0, 1], "two at a time"
        release.set()
    assert [sorted(came[2:4]), sorted(came[4:])] == [[2, 3], [4, 5]]
    assert [turns.ask().is_set() for _ in range(3)] == [True, True, False], "and none is lost"


async def test_who_is_cancelled_takes_no_turn_from_the_others() -> None:
    turns = Turns(1)
    first, second, third = turns.ask(), turns.ask(), turns.ask()
    with trio.move_on_after(0.01):
        async with turns.taken(second):
            raise AssertionError("it is not the second one's turn")
    async with turns.taken(first):
        pass
    assert third.is_set()


class FarContent:
    """A file behind a line whose connections bring `rate` blocks a second each, after a delay."""

    is_copied = False

    def __init__(self, rate: float, delay_s: float) -> None:
        self._rate, self._delay_s = rate, delay_s
        self.fetched: list[int] = []

    async def stream(self, stretch: Stretch) -> None:
        await trio.sleep(self._delay_s)
        stretch.delayed(self._delay_s)
        while stretch.piece:
            await trio.sleep(1 / self._rate)
            self.fetched.append(stretch.next // BLOCK)
            stretch.arrived(bytes(stretch.piece))


async def test_a_far_file_comes_nearly_as_fast_as_over_sixteen_connections(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    count, rate, delay_s, capacity = 256, 50, 0.04, 128 * MIB
    blocks, content = Blocks(nursery, capacity, flying=BLOCK), FarContent(rate, delay_s)
    shared = Shared(content, Proof(nursery, None, count * BLOCK, BLOCK), Line())  # type: ignore[arg-type]
    reader = Reader(blocks, Budget(capacity), shared, ("site", "file", "1"), count * BLOCK)
    began = trio.current_time()
    for index in range(count):
        await reader.read(index * BLOCK, BLOCK)
        assert blocks.size <= capacity
    took_s = trio.current_time() - began
    assert sorted(content.fetched) == list(range(count)), "each block once: none is evicted before it was read"
    assert took_s < 1.6 * (delay_s + count / rate / 16)
