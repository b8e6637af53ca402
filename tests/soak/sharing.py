"""A model of many workers that read a lab's files, with the shared tier and without, in virtual time.

    python tests/soak/sharing.py              # 1,000 workers, 10,000 files of 1 GB: the tables of labfs/shared/README.md

What a worker does is what labfs does: it opens a file (one request to the site), then fetches runs of four blocks, some at
a time; with the tier it asks there first, takes what is there, waits for what others are fetching, fetches what is its own
and stores that. A server and the store are each a line that carries one thing after another at a bandwidth, after a cost
for each; the store forgets the longest unused first. test_sharing.py checks the model against real processes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

MIB, GIB = 1024**2, 1024**3
RUN = 4 * MIB  # bytes that one request fetches
POLL_S = 0.2  # between two looks at what others are fetching, at the most

# Measured on two cores beside others (Redis 7.0, hiredis, loopback): the store's own time for a question and for bytes.
ASK_S = 80e-6
STORE_BYTES_S = 2.0e9
SERVER_BYTES_S = 1.25e9  # a line of 10 Gbit/s
WORKER_BYTES_S = 0.3e9  # what one process of labfs reads, measured
SERVER_S = 0.01  # for each request
ROUND_TRIP_S = 0.0005  # to the store


@dataclass
class Line:
    """Carries one thing after another: `each_s` for every one, and its bytes at a bandwidth."""

    bytes_s: float
    each_s: float = 0.0
    free_at: float = 0.0
    busy_s: float = 0.0
    bytes: int = 0
    count: int = 0

    def carry(self, now: float, size: int) -> float:
        """Return when something that is to be carried now has arrived."""
        took = self.each_s + size / self.bytes_s
        self.free_at = max(now, self.free_at) + took
        self.busy_s += took
        self.bytes += size
        self.count += 1
        return self.free_at


class Store:
    """What the tier holds: at most `room` bytes."""

    def __init__(self, room: int) -> None:
        self.line = Line(STORE_BYTES_S, ASK_S)
        self.room = room
        self.held: OrderedDict[object, int] = OrderedDict()
        self.size = self.most = 0
        self.claims: set[object] = set()

    def get(self, key: object) -> bool:
        if key in self.held:
            self.held.move_to_end(key)
            return True
        return False

    def put(self, key: object, size: int) -> None:
        self.claims.discard(key)
        if key in self.held:
            return
        self.held[key] = size
        self.size += size
        while self.size > self.room:
            self.size -= self.held.popitem(last=False)[1]
        self.most = max(self.most, self.size)


class Turns:
    """At most `count` at a time."""

    def __init__(self, count: float) -> None:
        self.count = count
        self.taken = self.most = 0
        self.waiting: deque[Callable[[], None]] = deque()

    def take(self, then: Callable[[], None]) -> None:
        if self.taken >= self.count:
            self.waiting.append(then)
            return
        self.taken += 1
        self.most = max(self.most, self.taken)
        then()

    def end(self) -> None:
        self.taken -= 1
        if self.waiting:
            self.take(self.waiting.popleft())


@dataclass
class Site:
    """A server; `at_once` is how many requests all workers together may have under way, `own` each alone."""

    line: Line = field(default_factory=lambda: Line(SERVER_BYTES_S))
    latency_s: float = SERVER_S
    requests: int = 0
    fetched: int = 0


class World:
    """Workers, a server and perhaps a store, in virtual time."""

    def __init__(self, store: Store | None, at_once: int, worker_bytes_s: float = WORKER_BYTES_S) -> None:
        self.now = 0.0
        self.site = Site()
        self.store = store
        self.at_once = at_once
        self.shared = Turns(at_once if store is not None else float("inf"))
        self.under_way = self.most = 0
        self.worker_bytes_s = worker_bytes_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), then))

    def run(self) -> float:
        """Run until all is done; return how long that took, in seconds."""
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()
        return self.now

    def ask(self, own: Turns, size: int, then: Callable[[], None]) -> None:
        """Have a worker send the server one request for so many bytes."""

        def send() -> None:
            self.site.requests += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.at(self.site.line.carry(self.now, size) + self.site.latency_s, arrived)

        def arrived() -> None:
            self.under_way -= 1
            self.shared.end()
            own.end()
            then()

        own.take(lambda: self.shared.take(send))


class Worker:
    """Reads files, one after another, `window` runs at a time."""

    def __init__(self, world: World, files: Iterator[tuple[object, int]], window: int = 4) -> None:
        self.world = world
        self.files = files
        self.window = window
        self.own = Turns(world.at_once)
        self.line = Line(world.worker_bytes_s)
        self.next_file()

    def next_file(self) -> None:
        found = next(self.files, None)
        if found is None:
            return
        self.file, size = found
        self.left = deque((start, min(RUN, size - start)) for start in range(0, size, RUN))
        self.missing = len(self.left)
        self.world.ask(self.own, 0, self.begin)  # its address, or its record

    def begin(self) -> None:
        for _ in range(min(self.window, len(self.left))):
            self.go_on()

    def go_on(self) -> None:
        if self.left:
            start, size = self.left.popleft()
            self.bring((self.file, start), size, 0.01)

    def bring(self, key: object, size: int, pause_s: float) -> None:
        world, store = self.world, self.world.store
        if store is None:
            world.ask(self.own, size, lambda: self.arrived(size))
        elif store.get(key):
            world.at(store.line.carry(world.now, size) + ROUND_TRIP_S, lambda: self.arrived(size))
        elif key in store.claims:
            later = store.line.carry(world.now, 0) + ROUND_TRIP_S + pause_s
            world.at(later, lambda: self.bring(key, size, min(1.5 * pause_s, POLL_S)))
        else:
            store.claims.add(key)
            asked = store.line.carry(world.now, 0) + ROUND_TRIP_S
            world.at(asked, lambda: world.ask(self.own, size, lambda: self.fetched(key, size)))

    def fetched(self, key: object, size: int) -> None:
        world, store = self.world, self.world.store
        assert store is not None
        world.site.fetched += size
        world.at(store.line.carry(world.now, size), lambda: store.put(key, size))
        self.arrived(size)

    def arrived(self, size: int) -> None:
        self.world.at(self.line.carry(self.world.now, size), self.done)

    def done(self) -> None:
        self.missing -= 1
        if not self.missing:
            self.next_file()
        else:
            self.go_on()


@dataclass(frozen=True)
class Result:
    seconds: float
    requests: int
    server_bytes: int
    most: int  # requests at the server at a time
    store_out: int
    store_most: int
    store_busy: float  # share of the time


def simulated(readings: list[list[tuple[object, int]]], room: int | None, at_once: int = 32) -> Result:
    """Have each worker read its files, in order; with a store of `room` bytes, or without."""
    store = None if room is None else Store(room)
    world = World(store, at_once)
    for files in readings:
        Worker(world, iter(files))
    seconds = world.run()
    line = store.line if store is not None else Line(1.0)
    busy = line.busy_s / seconds if seconds else 0.0
    most = store.most if store is not None else 0
    return Result(seconds, world.site.requests, world.site.line.bytes, world.most, line.bytes, most, busy)


def pace(workers: int, requests: int, per_second: int, *, shared: bool) -> tuple[float, float]:
    """Return in how many seconds workers send their requests at the least, and how many the server sees in one."""
    rate = per_second if shared else workers * per_second
    turns = -(-requests // per_second) if not shared else -(-workers * requests // per_second)
    return float(turns - 1), float(rate)


# -- 1,000 workers and 10,000 files of 1 GB ----------------------------------------------------------------


def patterns(workers: int, files: int, size: int) -> dict[str, list[list[tuple[object, int]]]]:
    """Return who reads what: each file once, the same few by all, or ten each of which some are asked for more."""
    pick = random.Random(1)
    each = files // workers
    weights = [1 / (rank + 1) for rank in range(files)]
    return {
        "each file by one worker": [[(n, size) for n in range(w * each, (w + 1) * each)] for w in range(workers)],
        "the same 10 by all": [[(n, size) for n in range(10)] for _ in range(workers)],
        "10 each, some asked for more": [[(n, size) for n in pick.choices(range(files), weights, k=10)] for _ in range(workers)],
    }  # fmt: skip


def main() -> None:
    size = 1_000_000_000
    print(
        "| what is read | tier | time | from the server | its requests | at a time | from the store | in it | store busy |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, readings in patterns(1000, 10_000, size).items():
        for room in (None, 64 * GIB, 1024 * GIB):
            found = simulated(readings, room)
            tier = "none" if room is None else f"{room // GIB} GiB"
            print(
                f"| {name} | {tier} | {found.seconds / 3600:.1f} h | {found.server_bytes / 1e12:.2f} TB"
                f" | {found.requests:,} | {found.most:,} | {found.store_out / 1e12:.2f} TB"
                f" | {found.store_most / GIB:.0f} GiB | {found.store_busy:.0%} |",
                flush=True,
            )
    print("\n| workers, the same 10 files | none | 64 GiB | store busy |\n|---|---|---|---|")
    for workers in (1, 4, 16, 64, 256, 1000):
        readings = patterns(workers, 10_000, size)["the same 10 by all"]
        bare, with_it = simulated(readings, None), simulated(readings, 64 * GIB)
        print(
            f"| {workers:,} | {bare.seconds:,.0f} s | {with_it.seconds:,.0f} s | {with_it.store_busy:.0%} |", flush=True
        )


if __name__ == "__main__":
    main()
