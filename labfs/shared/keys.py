"""Keys in the store: nothing in them can be read, and who has another account finds none of this one's.

What belongs to one server is named by a digest of its address, so that its turns are everybody's. What belongs to an
account is named, and sealed, by what a slow digest of its credentials gives: without these nobody can find a value,
forge one, or learn a credential by trying many.

Tests: mount/test_shared.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

SALT = b"labfs: the shared tier"  # the same everywhere: machines with one account have to find the same keys
SEAL = 16  # bytes
PREFIX = "labfs:1:"


def server(kind: str, url: str) -> str:
    """Return the prefix of what all accounts of a server share."""
    address = url.rstrip("/")
    return f"{PREFIX}{digest(f'{kind} {address}')}:"


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a server; `secret` is the slow digest of its credentials with `SALT`."""

    secret: str = field(repr=False)

    def key(self, *words: object) -> str:
        """Return the key of what the words name."""
        return f"{PREFIX}{digest(f'prefix {self.secret}')}:{digest(repr(words))}"

    def sealed(self, key: str, value: bytes | memoryview | bytearray) -> bytes:
        """Return a value to be stored under a key."""
        return bytes(value) + self._seal(key, value)

    def opened(self, key: str, stored: bytes) -> memoryview | None:
        """Return a value as it was sealed under the key; None if these are not its bytes."""
        value = memoryview(stored)[: max(len(stored) - SEAL, 0)]
        good = len(stored) >= SEAL and hmac.compare_digest(self._seal(key, value), stored[-SEAL:])
        return value if good else None

    def _seal(self, key: str, value: bytes | memoryview | bytearray) -> bytes:
        # SHA-256 takes 0.7 ms for 1 MiB on processors with instructions for it.
        seal = hmac.new(f"seal {self.secret} {key}".encode(), digestmod=hashlib.sha256)
        seal.update(value)
        return seal.digest()[:SEAL]


def digest(text: str) -> str:
    """Return what a text is called where it must not be read."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
