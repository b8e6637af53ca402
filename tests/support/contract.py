"""The suite that every backend must pass. Set-up and checks go around the backend, straight to the store."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import pytest
import trio

from labfs.backend import Accept, Backend, Buffer, Entry, Replace, Target, fetched
from labfs.errors import CrossDevice, Exists, Invalid, LabfsError, NameTooLong, NotFound, Stale
from labfs.tree.scan import scan

MIB = 1024 * 1024


class Bytes:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), MIB):
            yield self._data[start : start + MIB]

    def md5(self) -> bytes:
        return hashlib.md5(self._data).digest()


def hurried(backend: Any) -> Any:
    """Let a backend look for lost answers for less than two seconds instead of 90."""
    backend.looking.long_s = (0.1, 0.2, 0.4, 0.6)
    return backend


class Ground(Protocol):
    """What a system's tests provide: a fresh record, and a way to its store that is not the backend."""

    backend: Backend
    record: Entry  # a writable directory, empty; what is put there has its `room`
    listed: Entry  # the directory whose pages show what is in the record: itself, or one above
    home: tuple[str, ...]  # folders in the record, in which files are saved

    def put(self, path: str, data: bytes) -> str:
        """Save a file behind the backend's back; return its label."""
        ...

    def stored(self) -> dict[str, bytes]: ...

    def uploads(self) -> int:
        """Return how many complete files the record has, versions counted."""
        ...


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Basket:
    """A sink in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.announced: int | None = None
        self.passes = 0
        self.received = 0

    def begin(self, size: int | None) -> None:
        self.announced = size
        self.passes += 1
        self.data.clear()

    def write(self, data: Buffer) -> None:
        self.data += data
        self.received = max(self.received, len(self.data))


async def held(ground: Ground) -> list[Entry]:
    """List the files that are in the record."""
    inside = None if ground.listed.id == ground.record.id else ground.record.id
    return [e for e in await scan(ground.backend, ground.listed) if not e.is_dir and e.inside == inside]


async def whole(ground: Ground, entry: Entry) -> bytes:
    content = ground.backend.content(entry)
    await content.prepare()
    if not ground.backend.capabilities.ranged:
        return await poured(ground, entry)
    size = await measured(ground, entry)
    return bytes(await fetched(content, 0, size)) if size else b""


async def poured(ground: Ground, entry: Entry) -> bytes:
    basket = Basket()
    await ground.backend.content(entry).pour(basket)
    assert basket.announced in (None, len(basket.data))
    return bytes(basket.data)


async def measured(ground: Ground, entry: Entry) -> int:
    size = entry.size if entry.size is not None else await ground.backend.measure(entry)
    if size is None and not ground.backend.capabilities.measured:
        return len(await poured(ground, entry))
    assert size is not None
    return size


def names_of(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def target(ground: Ground, name: str) -> Target:
    return Target(ground.record, ground.home, name)


def at(ground: Ground, name: str) -> str:
    return "/".join((*ground.home, name))


class Contract:
    """Subclass it with a fixture `ground`."""

    async def test_it_says_who_we_are(self, ground: Ground) -> None:
        assert await ground.backend.check()

    async def test_the_record_is_found_from_the_root(self, ground: Ground) -> None:
        async def find(parent: Entry, depth: int) -> bool:
            for entry in await scan(ground.backend, parent):
                if entry.id == ground.record.id:
                    return True
                if entry.is_dir and not entry.complete and depth < 2 and await find(entry, depth + 1):
                    return True
            return False

        assert await find(ground.backend.root, 0)
        assert Accept.FILE in ground.record.takes

    @pytest.mark.parametrize("count", [0, 1, 7])
    async def test_a_list_shows_each_file_once_as_stat_does(self, ground: Ground, count: int) -> None:
        count = min(count, ground.record.takes.room or count)
        labels = [ground.put(f"f{index}", noise(index + 1)) for index in range(count)]
        entries = await held(ground)
        assert sorted(entry.label for entry in entries) == sorted(labels)
        for entry in entries:
            assert await ground.backend.stat(entry.id) == entry
            assert (await measured(ground, entry), entry.is_dir) == (int(entry.name[1:]) + 1, False)

    async def test_reads_are_the_slices_of_what_is_stored(self, ground: Ground) -> None:
        data = noise(300_000)
        ground.put("f", data)
        (entry,) = await held(ground)
        assert await poured(ground, entry) == data
        if not ground.backend.capabilities.ranged:
            return
        assert entry.version is not None
        content = ground.backend.content(entry)
        chance = random.Random(7)
        ranges = [(0, 1), (0, len(data)), (len(data) - 1, len(data))]
        ranges += [tuple(sorted(chance.sample(range(len(data)), 2))) for _ in range(10)]  # type: ignore[misc]
        for start, stop in ranges:
            assert bytes(await fetched(content, start, stop)) == data[start:stop]

    async def test_what_is_not_there_is_not_found(self, ground: Ground) -> None:
        ground.put("f", b"x")
        (entry,) = await held(ground)
        kind = entry.id.rpartition("/")[0]
        with pytest.raises(LabfsError) as caught:
            await ground.backend.stat(f"{kind}/999999999")
        assert caught.value.errno in (2, 13, 22)

    @pytest.mark.parametrize("size", [1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1])
    async def test_one_body(self, ground: Ground, size: int) -> None:
        if size > ground.backend.capabilities.whole:
            return
        data = noise(size)
        entry = await ground.backend.upload(target(ground, "f"), Bytes(data))
        assert ground.stored() == {at(ground, "f"): data}
        assert (entry.name, entry.folders, entry.size) == ("f", ground.home, size)
        assert entry == replace(await ground.backend.stat(entry.id), size=size)
        assert [e.id for e in await held(ground)] == [entry.id]

    async def test_an_empty_file_works_or_fails_and_never_half(self, ground: Ground) -> None:
        try:
            await ground.backend.upload(target(ground, "f"), Bytes(b""))
        except Invalid:
            assert ground.stored() == {}
        else:
            assert ground.stored() == {at(ground, "f"): b""}

    @pytest.mark.parametrize("sizes", [[1], [0, 1], [0, -1], [0, 0, 5]])
    async def test_parts(self, ground: Ground, sizes: list[int]) -> None:
        multipart = ground.backend.multipart
        if multipart is None or ground.record.takes.whole is not None:
            return
        rules = multipart.rules
        parts = [noise(rules.least + size if size <= 0 else size, seed) for seed, size in enumerate(sizes)]
        upload = await multipart.begin(target(ground, "big"), sum(map(len, parts)))
        numbers = reversed(range(1, len(parts) + 1))  # any order
        receipts = [await upload.put_part(number, Bytes(parts[number - 1])) for number in numbers]
        receipts[0] = await upload.put_part(len(parts), Bytes(parts[-1]))  # again
        assert ground.stored() == {}, "nothing is visible before the end"
        assert await held(ground) == []
        receipts.sort(key=lambda receipt: receipt.number)
        entry = await upload.complete(receipts, sum(map(len, parts)))
        assert ground.stored() == {at(ground, "big"): b"".join(parts)}
        assert await upload.complete(receipts, sum(map(len, parts))) == entry, "after a lost answer"
        assert ground.uploads() == 1
        await upload.abort()  # harmless now
        assert ground.stored() == {at(ground, "big"): b"".join(parts)}

    async def test_an_abort_leaves_no_trace(self, ground: Ground) -> None:
        if ground.backend.multipart is None or ground.record.takes.whole is not None:
            return
        upload = await ground.backend.multipart.begin(target(ground, "f"), None)
        await upload.put_part(1, Bytes(b"x"))
        await upload.abort()
        await upload.abort()
        assert (ground.stored(), await held(ground)) == ({}, [])

    async def test_a_changed_file_is_stale_or_still_the_old_one(self, ground: Ground) -> None:
        ground.put("f", noise(1000, 1))
        (entry,) = await held(ground)
        ground.put("f", noise(1000, 2))
        with contextlib.suppress(Stale):
            assert await whole(ground, entry) == noise(1000, 1)

    @pytest.mark.parametrize("name", ["größe.txt", "e\u0301", "a b", " lead", "trail ", "%2F", "a&b=c?d#e+f", "quo\"te'", "x" * 200,
                                      ".hidden", "日本語.csv", "semi;colon", "back\\slash"])  # fmt: skip
    async def test_names_survive_the_round_trip_or_are_refused(self, ground: Ground, name: str) -> None:
        try:
            entry = await ground.backend.upload(target(ground, name), Bytes(b"x"))
        except (Invalid, NameTooLong):
            long = len(name.encode()) > ground.backend.capabilities.longest_name
            blank = name != name.strip()
            assert long or blank or set(name) & set('"\\'), "only what no form or header can hold may be refused"
            assert ground.stored() == {}
            return
        assert entry.name == name
        assert set(ground.stored()) == {at(ground, name)}
        assert names_of(await held(ground)) == [name]
        assert await poured(ground, entry) == b"x"

    @pytest.mark.parametrize("name", ["a/b", "..", "."])
    async def test_names_that_would_escape_are_refused_or_kept_whole(self, ground: Ground, name: str) -> None:
        try:
            entry = await ground.backend.upload(target(ground, name), Bytes(b"x"))
        except LabfsError:
            assert ground.stored() == {}
        else:
            assert (entry.name, entry.folders) == (name, ground.home)

    async def test_making_what_is_there_is_not_silent(self, ground: Ground) -> None:
        if Accept.DIRECTORY not in ground.backend.root.takes:
            return
        made = await ground.backend.make(ground.backend.root, f"Made {id(ground)}")
        assert made.is_dir
        with pytest.raises(Exists):
            await ground.backend.make(ground.backend.root, made.name)

    async def test_cancelled_anywhere_it_still_works(self, ground: Ground) -> None:
        ground.put("f", noise(50_000))
        (entry,) = await held(ground)
        for wait_ms in (0, 1, 2, 3, 5, 8, 13):
            with trio.move_on_after(wait_ms / 1000):
                await held(ground)
                await whole(ground, entry)
        assert await whole(ground, entry) == noise(50_000)

    async def test_describe_is_the_systems_own_record(self, ground: Ground) -> None:
        import json

        found: Any = await ground.backend.describe(ground.record)
        assert ground.record.label in json.dumps(found)

    async def test_renaming_does_what_the_capability_says(self, ground: Ground) -> None:
        ground.put("f", b"x")
        (entry,) = await held(ground)
        if not ground.backend.capabilities.renames:
            with pytest.raises(LabfsError):
                await ground.backend.rename(entry, target(ground, "g"))
            return
        try:
            renamed = await ground.backend.rename(entry, target(ground, "g"))
        except CrossDevice:  # for tools, which copy then
            assert ground.stored() == {at(ground, "f"): b"x"}
            return
        assert (renamed.id, renamed.name) == (entry.id, "g")
        assert names_of(await held(ground)) == ["g"]
        assert await whole(ground, renamed) == b"x"

    async def test_saving_over_a_file_does_what_the_capability_says(self, ground: Ground) -> None:
        ground.put("f", noise(1000, 1))
        (entry,) = await held(ground)
        how = ground.record.takes.replace or ground.backend.capabilities.replace
        if how in (Replace.NEVER, Replace.NEWER):
            return
        saved = await ground.backend.upload(replace(target(ground, "f"), replaces=entry), Bytes(noise(2000, 2)))
        assert await whole(ground, saved) == noise(2000, 2)
        if how is Replace.BY_DELETE:
            # The old one is there until the core deletes it, which it may do again after a crash.
            assert names_of(await held(ground)) == ["f", "f"]
            assert await whole(ground, entry) == noise(1000, 1)
            await ground.backend.delete(entry)
            await ground.backend.delete(entry)
        assert names_of(await held(ground)) == ["f"]
        assert await whole(ground, await ground.backend.stat(saved.id)) == noise(2000, 2)
        assert ground.stored() == {at(ground, "f"): noise(2000, 2)}
        if how is Replace.IN_PLACE:
            assert saved.id == entry.id or ground.record.takes.room == 1

    async def test_deleting_does_what_the_capability_says(self, ground: Ground) -> None:
        ground.put("f", b"x")
        (entry,) = await held(ground)
        if not ground.backend.capabilities.deletable:
            with pytest.raises(LabfsError):
                await ground.backend.delete(entry)
            return
        await ground.backend.delete(entry)
        assert ground.stored() == {}
        with pytest.raises((NotFound, LabfsError)):
            await ground.backend.stat(entry.id)
        await ground.backend.delete(entry)  # what is gone is no error
