"""A flat list of entries → the contents of each directory in it, by file name.

A system lists a directory as a flat set of entries. Those in sub-directories (`Entry.folders`) are sorted into
folders, and those of a directory that was listed along (`Entry.inside`) into that directory. Where a system
stores every upload to a path, the newest has the name and the older ones have the unlisted name `name [id]`.
No entry is lost: one with an unknown parent is shown at the top.

Tests: core/test_listed_along, unit/test_units.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from labfs.backend import Entry
from labfs.tree import names

log = logging.getLogger(__name__)

DEEPEST = 100  # levels of directories; a deeper path is shown as one long name


@dataclass(slots=True)
class Layout:
    """The contents of a directory in a listing, by file name."""

    entries: dict[str, Entry] = field(default_factory=dict)  # files, and directories that the server knows
    older: dict[str, Entry] = field(default_factory=dict)
    folders: dict[str, Layout] = field(default_factory=dict)
    complete: dict[str, Layout] = field(default_factory=dict)  # contents of the directories that were listed along


class Order(Protocol):
    """The order in which entries of one name were made, or seen."""

    def twins(self, entries: list[Entry]) -> list[Entry]:
        """Return different entries of one name, the one that has the plain name first."""
        ...

    def versions(self, entries: list[Entry]) -> list[Entry]:
        """Return versions of one file, the oldest first."""
        ...


def fold(entries: Iterable[Entry], order: Order, *, keeps_versions: bool) -> Layout:
    """Sort a flat list into directories, and in each separate the newest versions from older ones and name twins."""
    entries = list(entries)
    homes = _by_home(entries)
    top = Layout()
    waiting: list[tuple[Layout, str | None, int]] = [(top, None, 0)]
    while waiting:
        layout, home, depth = waiting.pop()
        for level, name, entry in _fill(layout, homes.pop(home), order, keeps_versions):
            level.complete[name] = Layout()
            if entry.id in homes and depth < DEEPEST:
                waiting.append((level.complete[name], entry.id, depth + 1))
    if homes:
        log.warning("%d directories are listed inside one another without end.", len(homes))
    return top


def _by_home(entries: list[Entry]) -> dict[str | None, list[Entry]]:
    listed_along = {entry.id for entry in entries if entry.complete}
    homes: dict[str | None, list[Entry]] = {None: []}
    for entry in entries:
        home = entry.inside if entry.inside in listed_along else None
        homes.setdefault(home, []).append(entry)
    return homes


def _fill(top: Layout, entries: list[Entry], order: Order, keeps_versions: bool) -> list[tuple[Layout, str, Entry]]:
    """Fill the layout of one directory; return the directories in it that were listed along, with their places."""
    groups: dict[tuple[str, ...], list[Entry]] = {(): []}
    for entry in entries:
        if len(entry.folders) > DEEPEST:
            entry = replace(entry, folders=(), name="/".join((*entry.folders, entry.name)))
        groups.setdefault(entry.folders, []).append(entry)
    for folders, group in groups.items():
        layout = top
        for folder in folders:
            layout = layout.folders.setdefault(names.safe(folder), Layout())
        newest, older = _by_age(group, order) if keeps_versions else (group, [])
        layout.entries = names.assign(newest, order.twins)
        layout.older = {names.with_label(names.safe(entry.name), entry): entry for entry in older}
    _part(top)
    return list(_listed_along(top))


def _listed_along(layout: Layout) -> Iterator[tuple[Layout, str, Entry]]:
    for name, entry in layout.entries.items():
        if entry.complete:
            yield layout, name, entry
    for folder in layout.folders.values():
        yield from _listed_along(folder)


def _by_age(entries: Iterable[Entry], order: Order) -> tuple[list[Entry], list[Entry]]:
    """Separate the newest version of each file from the older ones. Directories of one name are twins: all stay."""
    newest, older = [], []
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.is_dir:
            newest.append(entry)
        else:
            groups.setdefault(entry.name, []).append(entry)
    for group in groups.values():
        *before, last = group if len(group) == 1 else order.versions(group)
        older.extend(before)
        newest.append(last)
    return newest, older


def _part(layout: Layout) -> None:
    """Where a folder and a file have the same name, add the id to the file's name."""
    for name in layout.folders.keys() & layout.entries.keys():
        entry = layout.entries.pop(name)
        layout.entries[names.with_label(name, entry)] = entry
    for folder in layout.folders.values():
        _part(folder)
