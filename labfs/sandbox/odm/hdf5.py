"""Reads which groups and datasets an HDF5 file holds: in the layout that HDF5 writes unless told otherwise,
and in the later one as long as its groups are small.

Source: "HDF5 File Format Specification": superblocks 0, 2 and 3, object headers 1 and 2, groups as symbol
tables or as links in their header. Anything else is `Unreadable`. Offsets are in bytes.
"""

from __future__ import annotations

import struct
from typing import Any

Node = dict[str, Any]
Messages = list[tuple[int, bytes]]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DATASPACE, LINK_INFO, LINK, CONTINUATION, SYMBOL_TABLE = 0x01, 0x02, 0x06, 0x10, 0x11
NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
DEEPEST = 32  # a file may link a group into itself
MOST = 100_000  # objects shown, for the same reason
SOFT_LINK = 2
UNSUPPORTED = "its version of the HDF5 format is not supported"


class Unreadable(Exception):
    pass


def tree(data: bytes) -> Node:
    """Return the root group with all that is in it. Raises Unreadable."""
    if not data.startswith(SIGNATURE):
        raise Unreadable("it is not an HDF5 file")
    try:
        return _Reader(data).root()
    except (struct.error, IndexError, ValueError, OverflowError):
        raise Unreadable("it is damaged") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._seen = 0

    def root(self) -> Node:
        version = self._data[8]
        sizes = self._data[13:15] if version == 0 else self._data[9:11]
        if version not in (0, 2, 3) or sizes != b"\x08\x08":
            raise Unreadable(UNSUPPORTED)
        return self._object("/", self._number(64 if version == 0 else 36), 0)

    def _number(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self._data, at)[0])

    def _object(self, name: str, at: int, depth: int) -> Node:
        self._seen += 1
        if self._seen > MOST:
            raise Unreadable("it holds too many objects")
        messages = self._messages(at)
        kinds = dict(messages)
        if kinds.keys() & {SYMBOL_TABLE, LINK_INFO, LINK}:
            below = self._links(messages) if depth < DEEPEST else []
            children = [self._object(child, header, depth + 1) for child, header in below]
            return {"name": name, "type": "group", "children": children}
        if DATASPACE in kinds:
            return {"name": name, "type": "dataset", "shape": _shape(kinds[DATASPACE])}
        return {"name": name, "type": "datatype"}

    # -- object headers ----------------------------------------------------------------------------------

    def _messages(self, at: int) -> Messages:
        if self._data[at : at + 4] == b"OHDR":
            return self._later_messages(at)
        version, _, count, _, size = struct.unpack_from("<BBHII", self._data, at)
        if version != 1:
            raise Unreadable(UNSUPPORTED)
        found: Messages = []
        blocks = [(at + 16, size)]
        while blocks:
            at, size = blocks.pop(0)
            end = at + size
            while at + 8 <= end and len(found) < count:
                kind, length = struct.unpack_from("<HH", self._data, at)
                body = self._data[at + 8 : at + 8 + length]
                if kind == CONTINUATION:
                    blocks.append(struct.unpack_from("<QQ", body))
                found.append((kind, body))
                at += 8 + length
        return found

    def _later_messages(self, at: int) -> Messages:
        flags, width = self._data[at + 5], 1 << (self._data[at + 5] & 3)
        at += 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        size = int.from_bytes(self._data[at : at + width], "little")
        head = 4 + (2 if flags & 4 else 0)
        found: Messages = []
        blocks = [(at + width, size)]
        while blocks and len(found) < MOST:
            at, size = blocks.pop(0)
            end = at + size
            while at + head <= end:
                kind, length = struct.unpack_from("<BH", self._data, at)
                body = self._data[at + head : at + head + length]
                if kind == CONTINUATION:
                    start, whole = struct.unpack_from("<QQ", body)
                    blocks.append((start + 4, whole - 8))  # between its signature and its checksum
                found.append((kind, body))
                at += head + length
        return found

    # -- groups ------------------------------------------------------------------------------------------

    def _links(self, messages: Messages) -> list[tuple[str, int]]:
        """Return name and header of everything in a group."""
        found: list[tuple[str, int]] = []
        for kind, body in messages:
            if kind == SYMBOL_TABLE:
                btree, heap = struct.unpack_from("<QQ", body)
                found += self._entries(btree, self._number(heap + 24))
            elif kind == LINK:
                found += _link(body)
            elif kind == LINK_INFO and struct.unpack_from("<Q", body, 10 if body[1] & 1 else 2)[0] != NOWHERE:
                raise Unreadable("it has groups of a form that is not supported")
        return found

    def _entries(self, at: int, names: int) -> list[tuple[str, int]]:
        """Return what a B-tree of a symbol table leads to."""
        signature, _, level, used = struct.unpack_from("<4sBBH", self._data, at)
        if signature != b"TREE":
            raise ValueError
        found: list[tuple[str, int]] = []
        for index in range(used):
            child = self._number(at + 32 + 16 * index)
            found += self._entries(child, names) if 0 < level < DEEPEST else self._leaf(child, names)
        return found

    def _leaf(self, at: int, names: int) -> list[tuple[str, int]]:
        signature, _, _, count = struct.unpack_from("<4sBBH", self._data, at)
        if signature != b"SNOD":
            raise ValueError
        found = []
        for index in range(count):
            name, header, cache = struct.unpack_from("<QQI", self._data, at + 8 + 40 * index)
            if cache != SOFT_LINK:
                end = self._data.index(b"\0", names + name)
                found.append((self._data[names + name : end].decode(), header))
        return found


def _link(body: bytes) -> list[tuple[str, int]]:
    """Return what a link message names, if it is a hard link."""
    flags, at = body[1], 2
    if flags & 8 and body[at]:
        return []
    at += (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[at : at + width], "little")
    at += width
    return [(body[at : at + length].decode(), struct.unpack_from("<Q", body, at + length)[0])]


def _shape(body: bytes) -> list[int]:
    version, rank = body[0], body[1]
    return list(struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4))
