"""What every name may hold, by what was acknowledged.

A save is `acked` when its last call returned 0; `refused` when that failed; `unknown` when the daemon was killed
within it; `unfinished` when it never came to that call; `denied` when nothing of it was taken. What was acknowledged
last is what a name holds; a save that was closed and refused may be sent yet, until a newer one that was
acknowledged overtakes it; an unfinished one is never sent, and stays in the outbox.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

GONE = "gone"  # in place of a digest: there is no such file
PENDING = ("refused", "unknown")
KINDS = ("lost", "hidden", "doubled", "torn", "mixed", "come back", "too slow")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Contents:
    """All bytes that a file may ever have, each in a local file; every save has its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory

    def path(self, digest: str) -> Path:
        return self._directory / digest

    def bytes(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def keep(self, data: bytes) -> str:
        digest = digest_of(data)
        if not self.path(digest).exists():
            self.path(digest).write_bytes(data)
        return digest

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def make(self, chance: random.Random, size: int) -> str:
        return self.keep(chance.randbytes(size))

    def is_part(self, size: int, head: bytes, digests: Iterable[str]) -> bool:
        """Whether some bytes, of which the first are told, are less than the whole of a content, or zeros."""
        return not head.strip(b"\0") or any(
            self.size(digest) > size and self.bytes(digest).startswith(head) for digest in digests
        )


@dataclass(eq=False)
class Save:
    """One change of one name, a removal too. `results` are the digests that it may leave."""

    number: int
    round: int
    side: int
    name: str
    kind: str
    results: set[str]
    state: str = "begun"
    wrote: bool = False  # some bytes were taken
    begun: float = 0.0  # of the call that commits it, in seconds since 1970
    ended: float = 0.0
    overtaken: bool = False
    kept: bool = True  # its bytes must be in the outbox or on the server
    plain: bool = True  # written under the name itself

    def __str__(self) -> str:
        what = " ".join(sorted(result[:8] for result in self.results))
        return f"#{self.number} round {self.round} side {self.side} {self.kind} {self.state} [{what}]"


@dataclass
class Name:
    """A name and its history."""

    path: str
    settled: set[str] = field(default_factory=lambda: {GONE})
    saves: list[Save] = field(default_factory=list)

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def base(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def pending(self) -> list[Save]:
        return [save for save in self.saves if save.state in PENDING and not save.overtaken]

    @property
    def possible(self) -> set[str]:
        """Everything that the name may hold now."""
        return self.settled.union(*(save.results for save in self.pending))

    @property
    def closed(self) -> set[str]:
        """Everything that some program has closed under this name."""
        done = [save.results for save in self.saves if save.state in ("acked", "arrived", "over", *PENDING)]
        return set().union(*done) - {GONE}

    @property
    def acked(self) -> set[str]:
        return set().union(*(save.results for save in self.saves if save.state == "acked")) - {GONE}

    def begin(self, save: Save) -> None:
        self.saves.append(save)

    def apply(self, save: Save) -> None:
        """Take an answer into account."""
        if save.state != "acked":
            return
        self.settled = set(save.results)
        for other in self.saves:
            if other is save:
                continue
            if other.state == "acked" and other.ended > save.begun:
                self.settled |= other.results  # at the same time: either may be the last
            if other.state in PENDING or other.state == "unfinished":
                # A removal elsewhere is not known to a mount that has bytes of its own to save.
                removed_elsewhere = other.side != save.side and save.results == {GONE}
                other.overtaken |= other.ended <= save.begun and not removed_elsewhere

    def found(self, held: set[str], listed: Counter[int]) -> None:
        """Begin anew from what the system holds; `listed` says how many saves each mount's outbox has."""
        self.settled = set(held)
        for save in self.saves:
            if save.state in PENDING and (save.results & held or not listed[save.side]):
                save.state = "arrived" if save.results & held else "over"

    def history(self) -> str:
        return "; ".join(str(save) for save in self.saves[-8:])


@dataclass(frozen=True)
class Fault:
    """What went wrong: a kind of KINDS, where, and what was expected and found."""

    kind: str
    round: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: round {self.round}, “{self.name}”: {self.text}"
