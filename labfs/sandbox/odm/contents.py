"""The inner tree of a stored file: members of an archive, groups and datasets of an HDF5 file.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

Node = dict[str, Any]

ENDINGS = (".h5", ".h5ad", ".zip", ".gz")  # `.h5.gz` and `.h5ad.zip` are looked into as HDF5
LARGEST = 256 * 1024 * 1024  # bytes taken out of a container to look into it
DEEPEST = 32  # a file may link a group into itself
MOST = 100_000  # objects shown, for the same reason


def is_container(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def of(path: Path, name: str, form: str) -> Any:
    """Return the tree, or the list of paths, or `{"error": …}` for what cannot be read."""
    try:
        root = _root(path, name.lower(), name)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, KeyError, ValueError) as problem:
        return {"error": f"The contents of the file could not be read: {problem}"}
    return root if form == "tree" else _paths(root, "")


def _root(path: Path, lower: str, name: str) -> Node:
    if lower.endswith((".h5", ".h5ad")):
        return _hdf5(path)
    if lower.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if lower.endswith((".h5.zip", ".h5ad.zip")) and len(names) == 1:
                with archive.open(names[0]) as member:
                    return _hdf5(io.BytesIO(member.read(LARGEST)))
            return _folder({info.filename: info.file_size for info in archive.infolist()})
    with open(path, "rb") as file:
        head = file.read(4096)
        file.seek(0)
        unpacked = gzip.GzipFile(fileobj=file)
        if lower.endswith((".h5.gz", ".h5ad.gz")):
            return _hdf5(io.BytesIO(unpacked.read(LARGEST)))
        unpacked.read(1)  # is it a gzip file at all?
    return _folder({_inner_name(head) or name[: -len(".gz")]: None})


def _hdf5(file: Path | io.BytesIO) -> Node:
    """Return the root group with all that is in it. Raises OSError and its kin for what HDF5 does not read."""
    import h5py  # half a second, which a sandbox that nobody asks for this need not wait

    left = iter(range(MOST))

    def shown(name: str, item: Any, depth: int) -> Node:
        if next(left, None) is None:
            raise ValueError("it holds too many objects")
        if isinstance(item, h5py.Group):
            links = [name for name in item if isinstance(item.get(name, getlink=True), h5py.HardLink)]
            below = links if depth < DEEPEST else []
            return {"name": name, "type": "group", "children": [shown(n, item[n], depth + 1) for n in below]}
        if isinstance(item, h5py.Dataset):
            return {"name": name, "type": "dataset", "shape": list(item.shape or ())}
        return {"name": name, "type": "datatype"}

    with h5py.File(file, "r") as opened:
        return shown("/", opened, 0)


def _inner_name(head: bytes) -> str:
    """Return the name that a gzip header carries, or nothing."""
    if len(head) < 10 or not head[3] & 8:
        return ""
    start = 10 + (2 + int.from_bytes(head[10:12], "little") if head[3] & 4 else 0)
    return io.BytesIO(head[start:]).read().split(b"\0", 1)[0].decode("latin-1")


def _folder(members: dict[str, int | None]) -> Node:
    root: Node = {"name": "/", "type": "folder", "children": []}
    for path, size in members.items():
        here, parts = root, [part for part in path.split("/") if part]
        for index, part in enumerate(parts):
            last = index == len(parts) - 1 and not path.endswith("/")
            found = next((node for node in here["children"] if node["name"] == part and "children" in node), None)
            if last:
                here["children"].append({"name": part, "type": "file", **({} if size is None else {"size": size})})
            else:
                if found is None:
                    found = {"name": part, "type": "folder", "children": []}
                    here["children"].append(found)
                here = found
    return root


def _paths(node: Node, above: str) -> list[str]:
    found = []
    for child in node.get("children", []):
        path = f"{above}/{child['name']}"
        found += [path, *_paths(child, path)]
    return found
