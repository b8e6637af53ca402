"""Reads which groups and datasets an HDF5 file holds: the layout that HDF5 writes unless told otherwise.

Source: "HDF5 File Format Specification", version 0 of the superblock, version 1 of object headers,
groups as symbol tables. Files in later layouts are `Unreadable`. Offsets are in bytes.
"""

from __future__ import annotations

import struct
from typing import Any

Node = dict[str, Any]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
DATASPACE, SYMBOL_TABLE, CONTINUATION = 0x01, 0x11, 0x10
DEEPEST = 32  # a file may link a group into itself
SOFT_LINK = 2


class Unreadable(Exception):
    pass


def tree(data: bytes) -> Node:
    """Return the root group with all that is in it. Raises Unreadable."""
    if not data.startswith(SIGNATURE):
        raise Unreadable("it is not an HDF5 file")
    if len(data) < 96 or data[8] != 0 or data[13:15] != b"\x08\x08":
        raise Unreadable("its version of the HDF5 format is not supported")
    try:
        return _object(data, "/", struct.unpack_from("<Q", data, 64)[0], 0)
    except (struct.error, IndexError, ValueError):
        raise Unreadable("it is damaged") from None


def _object(data: bytes, name: str, at: int, depth: int) -> Node:
    messages = _messages(data, at)
    if SYMBOL_TABLE in messages:
        btree, heap = struct.unpack_from("<QQ", messages[SYMBOL_TABLE])
        (names,) = struct.unpack_from("<Q", data, heap + 24)
        below = _entries(data, btree, names) if depth < DEEPEST else []
        children = [_object(data, child, header, depth + 1) for child, header in below]
        return {"name": name, "type": "group", "children": children}
    if DATASPACE in messages:
        return {"name": name, "type": "dataset", "shape": _shape(messages[DATASPACE])}
    return {"name": name, "type": "datatype"}


def _messages(data: bytes, at: int) -> dict[int, bytes]:
    """Return the first message of each kind in an object header."""
    version, _, count, _, size = struct.unpack_from("<BBHII", data, at)
    if version != 1:
        raise Unreadable("its version of the HDF5 format is not supported")
    found: dict[int, bytes] = {}
    blocks = [(at + 16, size)]
    while blocks and count:
        at, size = blocks.pop(0)
        end = at + size
        while at + 8 <= end and count:
            kind, length = struct.unpack_from("<HH", data, at)
            body = data[at + 8 : at + 8 + length]
            if kind == CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", body))
            found.setdefault(kind, body)
            at, count = at + 8 + length, count - 1
    return found


def _entries(data: bytes, at: int, names: int) -> list[tuple[str, int]]:
    """Return name and header of everything in a group, by its B-tree."""
    signature, _, level, used = struct.unpack_from("<4sBBH", data, at)
    if signature != b"TREE":
        raise ValueError
    found: list[tuple[str, int]] = []
    for index in range(used):
        (child,) = struct.unpack_from("<Q", data, at + 32 + 16 * index)
        found += _entries(data, child, names) if level else _leaf(data, child, names)
    return found


def _leaf(data: bytes, at: int, names: int) -> list[tuple[str, int]]:
    signature, _, _, count = struct.unpack_from("<4sBBH", data, at)
    if signature != b"SNOD":
        raise ValueError
    found = []
    for index in range(count):
        name, header, cache = struct.unpack_from("<QQI", data, at + 8 + 40 * index)
        if cache != SOFT_LINK:
            end = data.index(b"\0", names + name)
            found.append((data[names + name : end].decode(), header))
    return found


def _shape(body: bytes) -> list[int]:
    version, rank = body[0], body[1]
    return list(struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4))
