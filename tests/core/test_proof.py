"""What was read once is recognised when it comes again, and a checksum proves where checksums are such."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
from memory import RULES, MemoryBackend, MemoryContent, evict

from labfs.backend import Buffer, Entry
from labfs.read import proof
from labfs.read.blocks import Blocks
from labfs.read.proof import HELD, Damaged
from labfs.read.reader import Reader
from labfs.read.readers import Readers
from labfs.read.whole import Copies
from labfs.read.window import BLOCK

Spoil = Callable[[int, bytes], bytes]
WRONG = "md5:" + "0" * 32


def right(start: int, data: bytes) -> bytes:
    return data


def at(place: int) -> Spoil:
    """Spoil one byte of the file, whatever ranges are asked for."""
    return lambda start, data: flipped(data, place - start)


def each(place: int) -> Spoil:
    """Spoil the same place of every answer."""
    return lambda start, data: flipped(data, place)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if 0 <= place < len(data) else data


@functools.lru_cache(maxsize=4)
def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@dataclass
class Line:
    """A store whose answers pass a line that may spoil them; `once` is for its next answers only."""

    backend: MemoryBackend
    spoil: Spoil = right
    once: list[Spoil] = field(default_factory=list)
    gate: trio.Event | None = None  # what a second download waits for

    def content(self, entry: Entry) -> MemoryContent:
        line, opened = self, len(self.opened)
        self.opened.append(entry)

        class Passed(MemoryContent):
            async def read(self, start: int, stop: int) -> Buffer:
                if opened > 0 and line.gate is not None:
                    await line.gate.wait()
                data = bytes(await super().read(start, stop))
                spoil = line.once.pop(0) if line.once else line.spoil
                return spoil(start, data)

        return Passed(self.backend, entry)

    opened: list[Entry] = field(default_factory=list)


class Ground:
    """One file, the line to it, and readers whose memory a test empties."""

    def __init__(self, nursery: trio.Nursery, path: Path, blocks: int = 5, *, checksum: str | None = "right") -> None:
        self.backend = MemoryBackend(latency_s=0.0)
        self.line = Line(self.backend)
        self.data = noise(blocks * BLOCK - 5)
        self.entry = self.backend.put("f", self.data)
        if checksum != "right":
            self.entry = replace(self.entry, checksum=checksum)
        self.backend.content = self.line.content  # type: ignore[method-assign]
        self.blocks = Blocks(nursery, 64 * BLOCK)
        self.readers = Readers(nursery, self.blocks, Copies(nursery, path, 1 << 30))

    def open(self) -> Reader:
        return self.readers.open("memory", self.backend, self.entry)

    def forget(self) -> None:
        """What other reading does: push every block out of memory."""
        evict(self.blocks)

    async def whole(self, reader: Reader | None = None) -> bool:
        """Read from end to end; tell whether it was right. Raises Damaged."""
        reader = reader or self.open()
        step = 128 * 1024 if len(self.data) < 10 * BLOCK else BLOCK
        pieces = [bytes(await reader.read(start, step)) for start in range(0, len(self.data), step)]
        return b"".join(pieces) == self.data

    async def piece(self, reader: Reader, block: int) -> bool:
        start = block * BLOCK + 1000
        return bytes(await reader.read(start, 5000)) == self.data[start : start + 5000]

    async def match(self) -> None:
        """Let a checksum of the site be seen to match."""
        other = self.backend.put("other", b"some bytes")
        await self.readers.open("memory", self.backend, other).read(0, 10)


@pytest.fixture
def ground(nursery: trio.Nursery, tmp_path: Path) -> Ground:
    return Ground(nursery, tmp_path)


# -- what was proved --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [at(2 * BLOCK + 2000), each(2000), lambda start, data: bytes(len(data))],
                         ids=["one place", "each answer", "zeros"])  # fmt: skip
@pytest.mark.parametrize("other", [False, True], ids=["the same reader", "another reader"])
@pytest.mark.parametrize("way", ["whole", "random"])
async def test_what_was_proved_is_recognised_when_it_is_fetched_again(
    spoil: Spoil, other: bool, way: str, ground: Ground
) -> None:
    reader = ground.open()
    assert await ground.whole(reader)
    reader = ground.open() if other else reader

    async def read() -> bool:
        return await (ground.whole(reader) if way == "whole" else ground.piece(reader, 2))

    ground.forget()
    ground.line.spoil = spoil
    for _ in range(2):
        with pytest.raises(Damaged, match="same bytes"):
            await read()
    ground.line.spoil = right
    assert await read(), "no wrong byte left: the reader lives on"
    ground.line.spoil = spoil
    assert await read(), "and nothing wrong is in the cache"


async def test_a_fault_of_one_answer_passes(ground: Ground) -> None:
    reader = ground.open()
    assert await ground.whole(reader)
    for block in range(5):
        ground.forget()
        ground.line.once = [each(1500)]
        assert await ground.piece(reader, block)


async def test_the_reference_lives_as_long_as_a_reader_of_the_version(ground: Ground) -> None:
    reader = ground.open()
    assert await ground.whole(reader)
    ground.readers._shared.clear()
    ground.forget()
    ground.line.spoil = each(1500)
    with pytest.raises(Damaged):
        await ground.piece(ground.open(), 1)


async def test_digests_of_large_files_count_for_more(ground: Ground) -> None:
    for number in range(100):
        entry = replace(ground.entry, id=f"files/{number}", size=100 << 30)
        ground.readers.open("memory", ground.backend, entry)
    assert len(ground.readers._shared) <= ground.readers.KEPT // 100
    ground.readers.open("memory", ground.backend, replace(ground.entry, size=2**63 - 1))


# -- what was not proved yet --------------------------------------------------------------------------------


@pytest.fixture(params=["right", None], ids=["a checksum", "no checksum"])
def unproved(request: pytest.FixtureRequest, nursery: trio.Nursery, tmp_path: Path) -> Ground:
    return Ground(nursery, tmp_path, checksum=request.param)


async def test_of_two_answers_a_third_tells_which_was_wrong(unproved: Ground) -> None:
    reader = unproved.open()
    assert await unproved.piece(reader, 3)
    unproved.forget()
    unproved.line.once = [each(1500)]
    assert await unproved.piece(reader, 3)
    unproved.forget()
    unproved.line.spoil = each(1500)
    with pytest.raises(Damaged, match="same bytes"):
        await unproved.piece(reader, 3)
    unproved.line.spoil = right
    assert await unproved.piece(reader, 3)


async def test_a_first_answer_that_was_wrong_ends_the_reading_and_no_other(unproved: Ground) -> None:
    reader = unproved.open()
    unproved.line.once = [each(1500)]
    assert not await unproved.piece(reader, 3), "nobody can know"
    unproved.forget()
    for _ in range(2):
        with pytest.raises(Damaged):
            await unproved.piece(reader, 3)
    assert await unproved.whole()
    assert await unproved.piece(unproved.open(), 3)


async def test_a_proof_that_was_fed_with_a_wrong_block_begins_anew(nursery: trio.Nursery, tmp_path: Path) -> None:
    ground = Ground(nursery, tmp_path, 40)
    await ground.match()
    ground.line.spoil = at(BLOCK + 1500)
    first = ground.open()
    for block in range(3):
        await first.read(block * BLOCK, BLOCK)
    ground.line.spoil = right
    ground.forget()
    with pytest.raises(Damaged):
        await first.read(BLOCK, BLOCK)
    assert await ground.whole(), "whoever comes now is told nothing of it"


async def test_what_came_twice_is_overturned_by_three_others_only(nursery: trio.Nursery, tmp_path: Path) -> None:
    ground = Ground(nursery, tmp_path, checksum=None)
    reader = ground.open()
    for _ in range(2):
        assert await ground.piece(reader, 0)
        ground.forget()
    wrong = at(1500)
    ground.line.once = [wrong, right, right, wrong]  # one whole answer, then the block in two ranges
    assert await ground.piece(reader, 0)
    ground.forget()
    ground.line.spoil = wrong
    with pytest.raises(Damaged, match="what arrived before"):
        await ground.piece(reader, 0)


# -- checksums that prove, and those that do not ------------------------------------------------------------


async def test_a_damaged_block_is_no_byte_of_the_next_reading(ground: Ground) -> None:
    await ground.match()
    ground.line.once = [right, right, each(700)]
    with pytest.raises(Damaged):
        await ground.whole()
    assert await ground.whole()


@pytest.mark.parametrize("blocks", [1, 5])
async def test_two_equal_downloads_are_damage_where_checksums_were_seen_to_match(
    blocks: int, nursery: trio.Nursery, tmp_path: Path
) -> None:
    ground = Ground(nursery, tmp_path, blocks, checksum=WRONG)
    await ground.match()
    for _ in range(3):
        with pytest.raises(Damaged):
            await ground.whole()


@pytest.mark.parametrize("blocks", [1, 5, HELD * 2 + 7])
async def test_two_equal_downloads_count_where_no_checksum_ever_matched(
    blocks: int, nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ground = Ground(nursery, tmp_path, blocks, checksum=WRONG)
    assert await ground.whole(), "and no error reaches the reader"
    assert "Two downloads are equal" in caplog.text
    asked, size = ground.backend.sent, len(ground.data)
    assert 2 * size <= asked <= 2 * size + BLOCK
    assert await ground.whole()
    ground.forget()
    ground.line.spoil = each(1500)
    with pytest.raises(Damaged, match="same bytes"):
        await ground.whole()


@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("checksum", [WRONG, "md5-of-parts:" + "0" * 32 + "-2"])
async def test_two_different_downloads_never_count(
    checksum: str, blocks: int, nursery: trio.Nursery, tmp_path: Path
) -> None:
    ground = Ground(nursery, tmp_path, blocks, checksum=checksum)
    ground.line.spoil = each(4000)
    for _ in range(3):
        with pytest.raises(Damaged):
            await ground.whole()
    ground.line.spoil = right
    assert await ground.whole()


@pytest.mark.parametrize("blocks", [1, 5])
async def test_a_second_download_that_matches_tells_that_the_first_was_wrong(
    blocks: int, nursery: trio.Nursery, tmp_path: Path
) -> None:
    ground = Ground(nursery, tmp_path, blocks)
    ground.line.once = [each(700)]
    if blocks > 1:
        with pytest.raises(Damaged):
            await ground.whole()
    assert await ground.whole()


@pytest.mark.parametrize("from_the_start", [True, False])
@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("blocks", [1, 5])
async def test_where_checksums_prove_nothing_a_file_is_read_once_and_believed(
    blocks: int, matched: bool, from_the_start: bool, nursery: trio.Nursery, tmp_path: Path
) -> None:
    ground = Ground(nursery, tmp_path, blocks, checksum=WRONG)
    if matched:
        await ground.match()
    asked = ground.backend.sent

    def learn(start: int, data: bytes) -> bytes:
        ground.backend.capabilities = replace(RULES, checksums_prove=False)  # a header says so
        return data

    ground.line.spoil = learn
    if from_the_start:
        learn(0, b"")
        assert not ground.open()._proof.wants(0), "nothing is hashed in vain"
    assert await ground.whole()
    assert ground.backend.sent - asked == len(ground.data), "the bytes of an action do not grow"
    ground.forget()
    ground.line.once = [each(1500)]
    assert await ground.whole(), "its blocks are recognised all the same"


@pytest.fixture
def held(nursery: trio.Nursery, tmp_path: Path) -> Ground:
    ground = Ground(nursery, tmp_path, HELD * 2 + 7, checksum=WRONG)
    ground.line.gate = trio.Event()
    return ground


async def test_the_end_of_a_file_waits_for_a_second_download_that_is_slow(
    held: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labfs.read.reader.HOLD_S", 0.2)
    assert held.line.gate is not None
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def read() -> None:
            assert await held.whole()
            done.set()

        nursery.start_soon(read)
        await trio.sleep(1)
        assert not done.is_set()
        held.line.gate.set()


async def test_a_second_download_that_takes_too_long_is_for_the_next_reading(
    held: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labfs.read.reader.HOLD_S", 0.02)
    assert held.line.gate is not None
    reader = held.open()
    with pytest.raises(Damaged, match="under way"):
        await held.whole(reader)
    held.line.gate.set()
    monkeypatch.undo()
    assert await held.whole(reader), "nothing wrong has left"


async def test_a_second_download_that_fails_leaves_the_next_reading_to_tell(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "OPINION_S", 0.05)
    ground = Ground(nursery, tmp_path, checksum=WRONG)
    ground.line.gate = trio.Event()
    with pytest.raises(Damaged):
        await ground.whole()
    assert await ground.whole()


async def test_a_beginning_that_was_damaged_is_told_when_its_block_comes(nursery: trio.Nursery, tmp_path: Path) -> None:
    ground = Ground(nursery, tmp_path)
    ground.line.once = [each(10)]
    reader = ground.open()
    assert bytes(await reader.glance(0, 100)) != ground.data[:100], "no checksum covers a beginning"
    for _ in range(2):
        with pytest.raises(Damaged):
            await reader.read(4096, BLOCK)
    assert bytes(await ground.open().read(0, 5000)) == ground.data[:5000], "who opens it anew reads what is there"


async def test_a_right_beginning_is_part_of_a_right_file(nursery: trio.Nursery, tmp_path: Path) -> None:
    ground = Ground(nursery, tmp_path)
    reader = ground.open()
    assert bytes(await reader.glance(16, 100)) == ground.data[16:116]
    assert bytes(await reader.read(0, len(ground.data))) == ground.data
