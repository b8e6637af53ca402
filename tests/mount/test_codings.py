"""Stored bytes that a store labels as packed are the file, in every system and however they are read."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import five_stage
import httpx
import pytest
from five_stage import SITES, Lab
from stage import Mount, Sandbox, run

from labfs.http import codings

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]

NOISE = random.Random(9).randbytes(700_000)
STORED = gzip.compress(NOISE + b"chr1\t100\n" * 40_000)  # as a variant file is: packed before it is stored
BYTES = {
    "basespace": {"service": "blobs"},
    "clarity": {"service": "clarity", "route": "*/download"},
    "odm": {"service": "odm", "route": "*/download"},
    "portal": {"service": "portal", "route": "*uploaded-file*"},
    "redcap": {"service": "redcap"},
}


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture(scope="module")
def drive(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    for site in SITES:
        lab.put(site, "calls.vcf.gz", STORED)
    mount = Mount(tmp_path_factory.mktemp("codings"), lab.sandbox.config)
    try:
        yield mount.start()
    finally:
        mount.clean_up()


def bytes_of(site: str, action: str, argument: object = None) -> list[dict[str, object]]:
    """Return faults over the bytes of a system, wherever these lie."""
    routes = [BYTES[site], {"service": "blobs"}] if site == "portal" else [BYTES[site]]
    return [{**route, "action": action, "argument": argument, "times": None} for route in routes]


def fresh(lab: Lab, drive: Mount, site: str, name: str, data: bytes) -> Path:
    if site == "redcap":
        name = "calls.vcf.gz"  # there is one place
    lab.put(site, name, data)
    drive.refresh(drive.path / site)
    return drive.path / lab.places[site] / name


@pytest.mark.parametrize("site", SITES)
def test_labelled_bytes_are_the_file(lab: Lab, drive: Mount, site: str) -> None:
    lab.sandbox.faults(*bytes_of(site, "encoded", "gzip"))
    path = fresh(lab, drive, site, "whole.vcf.gz", STORED)
    assert path.stat().st_size in (len(STORED), 1)  # where only the whole tells
    assert hashlib.md5(path.read_bytes()).digest() == hashlib.md5(STORED).digest()
    assert path.stat().st_size == len(STORED)
    assert run(f"gzip -dc '{path}' | tail -n 1").stdout == "chr1\t100\n"


@pytest.mark.parametrize("site", SITES)
def test_so_are_ranges_of_them(lab: Lab, drive: Mount, site: str) -> None:
    lab.sandbox.faults(*bytes_of(site, "encoded", "x-gzip"))
    path = fresh(lab, drive, site, "range.vcf.gz", STORED)
    with open(path, "rb", buffering=0) as file:
        file.seek(500_000)
        assert file.read(1000) == STORED[500_000:501_000]


@pytest.mark.parametrize("site", SITES)
def test_what_was_packed_on_its_way_is_not_the_file(lab: Lab, drive: Mount, site: str) -> None:
    """Nothing tells the packed bytes from a file but their length, which never was the file's."""
    lab.sandbox.faults(*bytes_of(site, "packed"))
    path = fresh(lab, drive, site, "packed.txt", NOISE)
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()
    lab.sandbox.faults()
    drive.refresh(path.parent)
    assert path.read_bytes() == NOISE


# -- what headers say ------------------------------------------------------------------------------------------

Headers = httpx.Headers


@pytest.mark.parametrize(
    ("status", "headers", "size", "stored"),
    [
        (200, {}, None, True),
        (200, {"Content-Encoding": "identity"}, 10, True),
        (200, {"Content-Encoding": "utf-8"}, 10, True),
        (200, {"Content-Encoding": "aws-chunked"}, None, True),
        (200, {"Content-Encoding": "gzip", "Content-Length": "10"}, 10, True),
        (200, {"Content-Encoding": "gzip", "Content-Length": "9"}, 10, False),
        (200, {"Content-Encoding": "GZIP", "Content-Length": "9"}, None, True),
        (200, {"Content-Encoding": "br", "Content-Length": "9", "Vary": "Origin, Accept-Encoding"}, None, False),
        (200, {"Content-Encoding": "br", "Content-Length": "9", "Vary": "Accept-Encoding"}, 9, True),
        (200, {"Content-Encoding": "gzip"}, None, False),
        (200, {"Content-Encoding": "gzip"}, 10, None),
        (200, {"Content-Encoding": "gzip", "Content-Length": "9" * 30}, None, False),
        (206, {"Content-Encoding": "gzip", "Content-Range": "bytes 2-3/10", "Content-Length": "2"}, 10, True),
        (206, {"Content-Encoding": "gzip", "Content-Range": "bytes 2-3/9", "Content-Length": "2"}, 10, False),
        (206, {"Content-Encoding": "gzip", "Content-Range": "bytes 2-3/9", "Content-Length": "2"}, None, True),
        (206, {"Content-Encoding": "gzip", "Content-Range": "bytes 2-3/*", "Content-Length": "2"}, 10, False),
        (206, {"Content-Encoding": "identity, zstd", "Content-Range": "bytes 2-3/10"}, 10, None),
        (206, {"Content-Encoding": "gzip", "Content-Range": "bytes 2-3/10", "Content-Length": "22"}, 10, False),
    ],
)
def test_length_and_range_decide(status: int, headers: dict[str, str], size: int | None, stored: bool | None) -> None:
    assert codings.is_stored(status, Headers(headers), size) is stored
