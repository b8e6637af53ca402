"""What the stand-in services know: rows in SQLite, bytes in files, both in one directory.

State survives a restart. Statements are short and on a local disk, so they run where they are called.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
Row = sqlite3.Row


class Store:
    """One database and one folder of blobs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(directory / "sandbox.sqlite", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")

    def script(self, text: str) -> None:
        self._db.executescript(text)

    def column(self, table: str, name: str, declaration: str) -> None:
        """Add a column that the table of an older store lacks."""
        if name not in [row["name"] for row in self.all(f"PRAGMA table_info({table})")]:
            self.script(f"ALTER TABLE {table} ADD COLUMN {name} {declaration}")

    def run(self, sql: str, *values: Any) -> int:
        """Execute a statement and return the id of the row it made."""
        return self._db.execute(sql, values).lastrowid or 0

    def many(self, sql: str, rows: Iterator[tuple[Any, ...]]) -> None:
        self._db.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self._db.execute("BEGIN")
        with self._db:
            yield

    def one(self, sql: str, *values: Any) -> Row | None:
        row: Row | None = self._db.execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: Any) -> list[Row]:
        return self._db.execute(sql, values).fetchall()

    def count(self, sql: str, *values: Any) -> int:
        return int(self._db.execute(sql, values).fetchone()[0])

    # -- bytes ---------------------------------------------------------------------------------------

    def path(self, blob: str) -> Path:
        """Return where a blob lies, making it first if it is one of those that are made on demand."""
        path = self.blobs / blob
        if blob.startswith("made-") and not path.exists():
            make_large(path, int(blob.rsplit("-", 1)[1]) * MIB)
        return path

    def put(self, data: bytes) -> str:
        blob = secrets.token_hex(16)
        (self.blobs / blob).write_bytes(data)
        return blob

    async def receive(self, body: AsyncIterator[bytes]) -> tuple[str, int, str]:
        """Keep a body that arrives in pieces; return blob, size and MD5. Nothing stays of a broken one."""
        blob, size, digest = secrets.token_hex(16), 0, hashlib.md5(usedforsecurity=False)
        path = self.blobs / blob
        try:
            with open(path, "wb", buffering=MIB) as file:
                async for chunk in body:
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return blob, size, digest.hexdigest()

    def join(self, blobs: list[str]) -> str:
        """Make one blob of several, which are gone afterwards. Blocks."""
        joined = secrets.token_hex(16)
        with open(self.blobs / joined, "wb") as out:
            for blob in blobs:
                with open(self.blobs / blob, "rb") as part:
                    shutil.copyfileobj(part, out, MIB)
        for blob in blobs:
            self.drop(blob)
        return joined

    def drop(self, blob: str) -> None:
        (self.blobs / blob).unlink(missing_ok=True)


def large_block(index: int) -> bytes:
    """Return MiB number `index` of the large file that is the same everywhere."""
    return random.Random(index).randbytes(MIB)


def make_large(path: Path, size: int) -> None:
    """Write the first `size` bytes, whole MiB, of the large file."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    with open(partial, "wb") as file:
        file.writelines(large_block(index) for index in range(size // MIB))
    partial.rename(path)
