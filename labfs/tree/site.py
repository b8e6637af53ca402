"""A site of a mount: its name in the tree, its backend, and what this mount may do to it.

Tests: core/test_vfs.
"""

from __future__ import annotations

from dataclasses import dataclass

from labfs.backend import Backend, Replace


@dataclass(frozen=True, slots=True)
class Site:
    """One mounted system: its name in the tree, and what this mount may do to it."""

    name: str
    kind: str
    backend: Backend
    may_write: bool = True
    may_delete: bool = False
    address: str = ""  # of the server
    any_case: bool = False  # whether a name is found in another case as well
    poll_s: float = 0.0  # after which a directory that somebody looks at is listed again; 0: never

    @property
    def key(self) -> str:
        """The key of the site in caches of bytes and sizes: includes the address, as names can be reused."""
        return f"{self.name} {self.address}" if self.address else self.name

    @property
    def keeps_versions(self) -> bool:
        """Whether saving over a file leaves the bytes that were there."""
        return self.backend.capabilities.replace is Replace.NEWER
