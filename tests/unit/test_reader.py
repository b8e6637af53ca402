"""A reader trusts no content: what came is what was asked for, or it is an error."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from memory import MemoryBackend, MemoryContent

from labfs.backend import Buffer
from labfs.errors import Malformed
from labfs.read.blocks import Blocks
from labfs.read.reader import Reader
from labfs.read.readers import Readers
from labfs.read.whole import Copies
from labfs.read.window import BLOCK


class Careless(MemoryContent):
    """A content whose answers have other lengths than the ranges that were asked for."""

    off = 0  # bytes too many, or too few

    async def read(self, start: int, stop: int) -> Buffer:
        data = bytes(await super().read(start, stop))
        return data[: self.off] if self.off < 0 else data + bytes(self.off)


@pytest.mark.parametrize("off", [-1, 1, -BLOCK])
async def test_an_answer_of_another_length_is_no_block(off: int, tmp_path: Path, nursery: trio.Nursery) -> None:
    backend, data = MemoryBackend(), random.Random(1).randbytes(2 * BLOCK + 5)
    entry = backend.put("f", data)
    content = Careless(backend, entry)
    backend.content = lambda entry: content  # type: ignore[method-assign]
    readers = Readers(nursery, Blocks(nursery, 1 << 24), Copies(nursery, tmp_path, 1 << 24))
    reader: Reader = readers.open("memory", backend, entry)
    content.off = off
    with pytest.raises(Malformed, match="bytes came where"):
        await reader.read(0, 10)
    content.off = 0
    assert bytes(await reader.read(0, len(data))) == data, "nothing of it was kept"
