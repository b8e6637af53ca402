"""Ids as the service hands them out: from the blocks of several allocators, so that they do not grow with time.

Of 51 recorded app results, sorted by id, 18 are older than the one before; of 24 samples 8, of 209
sessions 16. Four allocators that take turns by lot give about as many. The lot is a hash of what was
handed out so far, so that equal requests get equal ids in every run.

    blocks   each id comes from the block of one of the allocators
    growing  each id is above all before it
    swapped  of two in a row below one parent, the second id is the lower one

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import hashlib

from labfs.sandbox.basespace.switches import Switches
from labfs.sandbox.store import Store

ALLOCATORS = 4
BLOCK = 250  # ids that an allocator takes at once

SCHEMA = """
CREATE TABLE IF NOT EXISTS id_blocks (kind TEXT, allocator INTEGER, next INTEGER, stop INTEGER,
    PRIMARY KEY (kind, allocator));
CREATE TABLE IF NOT EXISTS id_counts (kind TEXT PRIMARY KEY, given INTEGER, greatest INTEGER);
"""


class Ids:
    """No id of one table is ever given twice; what is promised to an allocator survives a restart."""

    def __init__(self, store: Store, switches: Switches) -> None:
        self._store = store
        self._switches = switches
        self._spare: dict[tuple[str, int], int] = {}  # the lower ids of pairs under way, by table and parent
        store.script(SCHEMA)

    def next(self, table: str, parent: int) -> tuple[int, int]:
        """Return an id for a row of a table, and how many were given before and with it."""
        given = self._count(table)
        if self._switches.ids == "swapped":
            return self._swapped(table, parent), given
        self._spare.clear()
        if self._switches.ids == "growing":
            return self._reserve(table, 1), given
        return self._from_block(table, given), given

    def _count(self, table: str) -> int:
        """Count one more. The ids of a table begin above all that SQLite ever saw in it."""
        rows = self._store.all("UPDATE id_counts SET given = given + 1 WHERE kind = ? RETURNING given", table)
        if rows:
            return int(rows[0]["given"])
        seen = self._store.one("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
        self._store.run("INSERT INTO id_counts VALUES (?, 1, ?)", table, seen["seq"] if seen else 0)
        return 1

    def _reserve(self, table: str, number: int) -> int:
        """Return the first of new ids in a row, all above those reserved before."""
        sql = "UPDATE id_counts SET greatest = greatest + ? WHERE kind = ? RETURNING greatest"
        (row,) = self._store.all(sql, number, table)
        return int(row["greatest"]) - number + 1

    def _swapped(self, table: str, parent: int) -> int:
        lower = self._spare.pop((table, parent), None)
        if lower is not None:
            return lower
        first = self._reserve(table, 2)
        self._spare[table, parent] = first
        return first + 1

    def _from_block(self, table: str, given: int) -> int:
        allocator = hashlib.sha256(f"{table} {given}".encode()).digest()[0] % ALLOCATORS
        sql = "UPDATE id_blocks SET next = next + 1 WHERE kind = ? AND allocator = ? AND next < stop RETURNING next"
        rows = self._store.all(sql, table, allocator)
        if rows:
            return int(rows[0]["next"]) - 1
        self._fill(table, allocator)
        return self._from_block(table, given)

    def _fill(self, table: str, allocator: int) -> None:
        """Give an allocator a new block; at first, give each of them one."""
        new = self._store.count("SELECT count(*) FROM id_blocks WHERE kind = ?", table) == 0
        for each in range(ALLOCATORS) if new else [allocator]:
            first = self._reserve(table, BLOCK)
            self._store.run("INSERT OR REPLACE INTO id_blocks VALUES (?, ?, ?, ?)", table, each, first, first + BLOCK)
