"""The small parts by themselves: names, ranges, blocks, proof, inodes, scratch."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from labfs.backend import Entry
from labfs.errors import LabfsError, Unavailable
from labfs.fuse import holders
from labfs.fuse.holders import program
from labfs.fuse.inodes import ROOT, Inodes
from labfs.read.blocks import Blocks
from labfs.read.proof import MIB, Proof, part_sizes
from labfs.tree import names
from labfs.tree.remembered.seen import Seen
from labfs.vfs.drafts.scratch import is_scratch
from labfs.write.ranges import Ranges

# -- names -----------------------------------------------------------------------------------------------

NAMES = st.text(max_size=90) | st.text(st.sampled_from("%2Ff./\n\0 aé\ud800"), max_size=40)


@given(NAMES)
def test_a_safe_name_is_one_path_component_and_turns_back(name: str) -> None:
    safe = names.safe(name)
    assert safe not in ("", ".", "..")
    assert not set(safe) & {"/", "\0", "\n"}
    assert len(safe.encode()) <= 255
    if "~" not in safe:
        assert names.original(safe) == name


@given(st.text(st.sampled_from("%2EF57D01A a."), min_size=1, max_size=30) | NAMES)
def test_a_name_that_somebody_typed_is_shown_as_it_was_typed(name: str) -> None:
    try:
        saved = names.for_saving(name)
    except LabfsError:
        return
    if name not in (".", ".."):
        assert names.safe(saved) == name


@pytest.mark.parametrize("name", ["My%20File.pdf", "x%41.txt", "100%", "a%FF.txt", "50%25", "%2f", "a%2", "%E9"])
def test_an_ordinary_percent_sign_stays(name: str) -> None:
    assert (names.original(name), names.safe(name)) == (name, name)


@given(st.text(min_size=100, max_size=400))
def test_a_long_name_is_cut_and_stays_distinct(name: str) -> None:
    assert len(names.safe(name).encode()) <= 255
    assert names.safe(name) != names.safe(name + "x")


def entry(name: str, age: int, is_dir: bool = False) -> Entry:
    return Entry(id=str(age), name=name, is_dir=is_dir, age=age, label=str(age))


@given(st.lists(st.sampled_from(["a.txt", "a [2].txt", "a", "A.txt", "..", "a/b", "a%2Fb", "x" * 300])))
def test_every_entry_gets_a_name_of_its_own_and_the_oldest_the_plain_one(given: list[str]) -> None:
    entries = [entry(name, age) for age, name in enumerate(given)]
    assigned = names.assign(reversed(entries), Seen().of("site").twins)
    assert sorted(e.age for e in assigned.values()) == list(range(len(given)))
    for name in set(given):
        assert assigned[names.safe(name)].age == given.index(name)


def test_twins_are_told_apart_before_the_extension() -> None:
    twins = [
        entry("reads.fastq.gz", 1),
        entry("reads.fastq.gz", 22),
        entry("Run 7.1", 3, True),
        entry("Run 7.1", 4, True),
    ]
    assert set(names.assign(twins, Seen().of("site").twins)) == {
        "reads.fastq.gz",
        "reads [22].fastq.gz",
        "Run 7.1",
        "Run 7.1 [4]",
    }


# -- ranges ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 60))), st.integers(0, 60), st.integers(0, 60)
)
def test_ranges_agree_with_a_set(steps: list[tuple[bool, int, int]], start: int, stop: int) -> None:
    ranges, model = Ranges(), set()
    for add, a, b in steps:
        if add:
            ranges.add(a, b)
            model |= set(range(a, b))
        else:
            ranges.cut(a)
            model = {offset for offset in model if offset < a}
    assert {offset for low, high in ranges.gaps(start, stop) for offset in range(low, high)} == set(
        range(start, stop)
    ) - model
    pieces = list(ranges)
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(pieces))


# -- blocks ----------------------------------------------------------------------------------------------


async def test_one_fetch_however_many_ask(autojump_clock: trio.testing.MockClock) -> None:
    fetches = 0

    async def fetch() -> bytes:
        nonlocal fetches
        fetches += 1
        await trio.sleep(1)
        return b"block"

    async with trio.open_nursery() as background, trio.open_nursery() as readers:
        blocks = Blocks(background, 1000)
        got: list[bytes] = []

        async def read() -> None:
            got.append(bytes(await blocks.get(("f", 0), fetch)))

        with trio.CancelScope() as first:
            readers.start_soon(read)
            for _ in range(50):
                readers.start_soon(read)
            await trio.sleep(0.5)
            first.cancel()
    assert (fetches, got) == (1, [b"block"] * 51)


async def test_the_one_who_asked_first_may_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async def fetch() -> bytes:
        await trio.sleep(1)
        return b"block"

    async with trio.open_nursery() as background:
        blocks = Blocks(background, 1000)
        with trio.move_on_after(0.5) as impatient:
            await blocks.get(("f", 0), fetch)
        assert impatient.cancelled_caught
        assert await blocks.get(("f", 0), fetch) == b"block"


async def test_an_error_reaches_everyone_who_waits_and_is_not_remembered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    errors = [Unavailable("once")]

    async def fetch() -> bytes:
        await trio.sleep(1)
        if errors:
            raise errors.pop()
        return b"block"

    async with trio.open_nursery() as background:
        blocks = Blocks(background, 1000)
        blocks.start(("f", 0), fetch)
        with pytest.raises(Unavailable, match="once"):
            await blocks.get(("f", 0), fetch)
        assert await blocks.get(("f", 0), fetch) == b"block"


async def test_blocks_are_bounded_in_bytes(autojump_clock: trio.testing.MockClock) -> None:
    async def fetch() -> bytes:
        return bytes(100)

    async with trio.open_nursery() as background:
        blocks = Blocks(background, 1000)
        for index in range(50):
            await blocks.get(("f", index), fetch)
            assert blocks.size <= 1000
        blocks.drop("f")
        assert blocks.size == 0


async def test_blocks_on_their_way_have_their_room(autojump_clock: trio.testing.MockClock) -> None:
    async def fetch() -> bytes:
        return bytes(100)

    async def slowly() -> bytes:
        await trio.sleep(1)
        return bytes(100)

    async with trio.open_nursery() as background:
        blocks = Blocks(background, 1000, flying=100)
        for index in range(10):
            await blocks.get(("f", index), fetch)
        for index in range(4):
            blocks.start(("g", index), slowly)
            assert blocks.size + 100 * (index + 1) <= 1000
        await trio.sleep(2)
        assert blocks.size == 1000


# -- proof -----------------------------------------------------------------------------------------------

BLOCK = 1000


def blocks_of(data: bytes) -> list[bytes]:
    return [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]


async def feed(proof: Proof, data: bytes) -> None:
    for index, block in enumerate(blocks_of(data)):
        await proof.offer(index, block)
    await proof.hashed()


async def test_a_right_file_is_proven_and_a_wrong_one_is_not(nursery: trio.Nursery) -> None:
    data = bytes(range(256)) * 20
    proof = Proof(nursery, "md5:" + hashlib.md5(data).hexdigest(), len(data), BLOCK)
    await feed(proof, data[:-1] + b"!")
    assert (proof.proven, proof.failures) == (False, 1)
    await feed(proof, data)
    assert proof.proven


async def test_readers_take_turns_in_one_proof(nursery: trio.Nursery) -> None:
    data = bytes(5 * BLOCK)
    proof = Proof(nursery, "md5:" + hashlib.md5(data).hexdigest(), len(data), BLOCK)
    for index, block in enumerate(blocks_of(data)):
        for _ in range(3):
            await proof.offer(index, block)
    await proof.hashed()
    assert proof.proven


@pytest.mark.parametrize("part", [5 * MIB, 8 * MIB, 25 * MIB])
async def test_the_part_size_of_a_multipart_tag_is_found_out(part: int, nursery: trio.Nursery) -> None:
    data = bytes(range(251)) * 120_000
    parts = [data[start : start + part] for start in range(0, len(data), part)]
    tag = hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest()
    proof = Proof(nursery, f"md5-of-parts:{tag}-{len(parts)}", len(data), 1 << 20)
    for index, start in enumerate(range(0, len(data), 1 << 20)):
        await proof.offer(index, data[start : start + (1 << 20)])
    await proof.hashed()
    assert proof.proven


async def test_odd_parts_are_believed_at_the_second_equal_download(nursery: trio.Nursery) -> None:
    data = bytes(3 * BLOCK)
    proof = Proof(nursery, "md5-of-parts:" + "0" * 32 + "-2", len(data), BLOCK)
    await feed(proof, data)
    assert (proof.proven, proof.failures) == (False, 1)
    await feed(proof, data)
    assert (proof.proven, proof.failures) == (True, 1)


@given(st.integers(1, 300 * MIB), st.integers(1, 40))
def test_part_sizes_give_that_many_parts(size: int, count: int) -> None:
    for part in part_sizes(size, count):
        assert -(-size // part) == count


# -- inodes ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Thing:
    key: str


@given(st.lists(st.tuples(st.sampled_from("lf"), st.integers(0, 5))))
def test_inodes_agree_with_counts(steps: list[tuple[str, int]]) -> None:
    root, things = Thing("root"), [Thing(str(i % 3)) for i in range(6)]  # two things for each key
    inodes, counts, numbers = Inodes(root), dict.fromkeys(range(6), 0), {}
    for step, index in steps:
        if step == "l":
            numbers[index] = inodes.remember(things[index])
            counts[index] += 1
        elif counts[index]:
            inodes.forget(numbers[index], 1)
            counts[index] -= 1
        alive = [i for i in counts if counts[i]]
        assert [inodes[numbers[i]] for i in alive] == [things[i] for i in alive]
        assert len({numbers[i] for i in alive}) == len(alive)
        assert len(inodes) == len(alive) + 1
    inodes.forget(ROOT, 99)
    assert inodes[ROOT] is root


def test_a_number_follows_its_key_and_not_the_object() -> None:
    one, two = Inodes(Thing("root")), Inodes(Thing("root"))
    assert one.number(Thing("site\0files/7")) == two.number(Thing("site\0files/7"))


def test_forgotten_nodes_are_let_go() -> None:
    inodes: Inodes[Thing] = Inodes(Thing("root"))
    thing = Thing("x")
    inodes.forget(inodes.remember(thing), 1)
    del thing
    gc.collect()
    assert len(inodes._numbers) == len(inodes._owners) == 1


def test_a_number_that_the_kernel_forgot_is_not_given_to_another_node() -> None:
    inodes, one, two = Inodes(Thing("root")), Thing("same"), Thing("same")
    number = inodes.remember(one)
    inodes.forget(number, 1)
    assert inodes.remember(two) != number
    assert inodes.remember(one) == number
    assert inodes[number] is one


# -- scratch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".~lock.a.odt#", "~$a.docx", ".a.swp", ".a.swo", ".a.swx", "4913", "a.txt~", ".#a", "#a#",
                                  ".DS_Store", "._a", "Thumbs.db", ".Trash-1000", ".goutputstream-XY12Z3", ".ipynb_checkpoints"])  # fmt: skip
def test_temporary_names_stay_local(name: str) -> None:
    assert is_scratch(name, "", ())


@pytest.mark.parametrize("name", ["a.txt", ".hidden.config", ".project.backup", "sedimentation", "sed123456", "data-wal",
                                  "notes.swp.txt", "5913", ".bashrc", "x-journal", "#1 sample.csv"])  # fmt: skip
def test_ordinary_names_do_not(name: str) -> None:
    assert not is_scratch(name, "", ("a.txt",))
    assert not is_scratch(name, "cp", ("a.txt",))


def test_some_names_count_only_for_their_program_or_beside_their_file() -> None:
    assert is_scratch(".a.txt.Xy12Zq", "rsync", ())
    assert not is_scratch(".a.txt.Xy12Zq", "cp", ())
    assert is_scratch("sedAb12Cd", "sed", ())
    assert is_scratch("lu31638eg52x.tmp", "soffice.bin", ())
    assert not is_scratch("lu31638eg52x.tmp", "python3", ())
    assert is_scratch("d.db-journal", "python3", ("d.db",))


CODE = "/hub/Study/Record/code"


@pytest.mark.parametrize(
    "path", ["HEAD.lock", "refs/heads/main.lock", "packed-refs.new", "objects/0d/tmp_obj_A1b2C3", "tXy12Zq"]
)
def test_what_git_is_still_writing_stays_local_in_its_own_directory_alone(path: str) -> None:
    directory, _, name = f"{CODE}/.git/{path}".rpartition("/")
    assert is_scratch(name, "git", (), directory)
    assert not is_scratch(name, "cp", (), directory)
    assert not is_scratch(name, "git", (), directory.replace("/.git", "/git"))


@pytest.mark.parametrize(
    "path", ["HEAD", "index", "packed-refs", "logs/refs/heads/testing", "logs/refs/heads/tmp_new", "objects/0d/b3f010"]
)
def test_what_git_keeps_is_saved(path: str) -> None:
    directory, _, name = f"{CODE}/.git/{path}".rpartition("/")
    assert not is_scratch(name, "git", (), directory)


def test_a_thread_is_known_by_the_name_of_its_process() -> None:
    def named() -> str:
        Path("/proc/thread-self/comm").write_text("worker")
        return program(threading.get_native_id())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(named).result() == program(os.getpid()) != "worker"


def test_a_program_whose_name_was_cut_within_a_letter_may_make_files() -> None:
    names: list[str] = []

    def look() -> None:
        ctypes.CDLL(None).prctl(15, "vierzehn Byte ü".encode()[:15], 0, 0, 0)
        names.append(holders.program(threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert names == [holders.program(os.getpid())] != [""]
