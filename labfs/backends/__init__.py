"""Kind → how to build its backend: one explicit table, one row a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from labfs.backend import Backend
from labfs.backends import basespace

Build = Callable[[str, str, Mapping[str, Callable[[], str]], float], Backend]


@dataclass(frozen=True, slots=True)
class Kind:
    """`build` takes the site's name, its url, its secrets by name, and the longest silence in seconds."""

    title: str
    build: Build
    secrets: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "basespace": Kind("Illumina BaseSpace Sequence Hub", basespace.build, ("token",)),
}
