"""What all backends share: what one is built from, and lists in which some rows make no sense.

Tests: backends/test_backends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import TYPE_CHECKING, Any, Protocol

from labfs.backend import Entry

if TYPE_CHECKING:
    from labfs.http.failures import Login
    from labfs.http.pace import Gate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a backend is built from: `secrets` are read anew at each request, `options` are the kind's own.

    `projects` holds, by alias, the secrets of those that have some of their own.
    """

    name: str
    url: str
    secrets: Mapping[str, Callable[[], str]] = field(repr=False)
    options: Mapping[str, str]
    projects: Mapping[str, Mapping[str, Callable[[], str]]] = field(default_factory=dict, repr=False)
    title: str = "the lab system"
    renewal: str = ""  # where a new credential comes from, as a sentence
    timeout_s: float  # the longest silence before a request is given up
    proxy: Callable[[], str] | None = None  # its address; "" is the direct way, None leaves it to the environment
    ca: str = ""  # a file or directory of certificates that are trusted besides the machine's own
    gate: Gate | None = None  # the turns of its server that other machines take, too

    @property
    def renewed(self) -> str:
        """Where a new credential comes from and how it is stored, as sentences."""
        return f"{self.renewal} It is stored by: labfs login {quote(self.name)}.".lstrip()

    def login(self, own: Callable[[Mapping[str, str], str], bool], rights: str = "") -> Login:
        """Return what is said of refused credentials; `own` tells the system's refusals from those of others.

        `rights` is what to do where the account lacks a right.
        """
        from labfs.http.failures import Login  # here, since a command line that builds no backend needs no HTTP library

        return Login(self.title, self.renewed, own, rights)


class DeviceFlow(Protocol):
    """How a system gives a program a token that a person allows on a page of its own."""

    async def begin(self) -> str:
        """Ask for a token; return the address of the page."""
        ...

    async def token(self) -> str:
        """Wait until a person has allowed it; return the token. Raises Denied, TimedOut."""
        ...

    async def aclose(self) -> None: ...


def sift(convert: Callable[[Any], Entry], items: Iterable[Any]) -> tuple[tuple[Entry, ...], int]:
    """Convert what a server listed; return the entries, and how many items made no sense and were left out.

    One thing that is wrong must not hide its siblings.
    """
    entries, left_out = [], 0
    for item in items:
        try:
            entries.append(convert(item))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            left_out += 1
            log.warning("Something that makes no sense was listed (%r).", error)
    return tuple(entries), left_out
