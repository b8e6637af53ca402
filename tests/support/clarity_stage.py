"""The Clarity stand-in as the tests see it: plain requests in front of it, and its store behind."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree as ET

import httpx
from stage import Sandbox

from labfs.sandbox.clarity.shelf import Switches

RI = "http://genologics.com/ri"
FILE = f"{{{RI}/file}}file"
PROJECT, SAMPLE, STEP = "KLM300", "KLM300A1", "24-126458"  # made to upload to
DONE = "24-126454"  # a completed step


class Clarity:
    """The running stand-in, seen from plain requests and from its store."""

    def __init__(self, running: Sandbox) -> None:
        self.directory = running.directory
        self.running = running
        known = json.loads((running.directory / "sandbox.json").read_text())
        self.url: str = known["sites"]["clarity"]
        self.credentials = known["credentials"]["clarity"]
        auth = (self.credentials["username"], self.credentials["password"])
        self.http = httpx.Client(base_url=f"{self.url}/api/v2/", auth=auth, trust_env=False, verify=False, timeout=30)

    def __enter__(self) -> Clarity:
        self.calm()
        return self

    def __exit__(self, *_: object) -> None:
        self.calm()
        self.http.close()

    def switch(self, **values: Any) -> None:
        answer = httpx.post(f"{self.running.control}/switches", json={"clarity": values}, trust_env=False, verify=False)
        answer.raise_for_status()

    def calm(self) -> None:
        """The usual switches, no faults, and nothing attached where the tests attach."""
        self.switch(**asdict(Switches()))
        self.running.faults()
        owners = self.rows("SELECT limsid FROM clarity_files WHERE owner LIKE ? OR owner = ?", f"{PROJECT}%", STEP)
        owners += self.rows(
            "SELECT f.limsid FROM clarity_files f JOIN clarity_artifacts a ON a.limsid = owner WHERE process = ?", STEP
        )
        for row in owners:
            self.http.delete(f"files/{row['limsid']}").raise_for_status()

    def get(self, path: str, **params: Any) -> ET.Element:
        answer = self.http.get(path, params=params or None)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/xml"
        return ET.fromstring(answer.content)

    def ids(self, path: str) -> list[str]:
        return [str(item.get("limsid")) for item in self.get(path) if item.get("limsid")]

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the store itself."""
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    def stored(self, owner: str) -> list[tuple[str, bytes | None]]:
        """Return name and bytes of what is attached to something, straight from the store."""
        rows = self.rows(
            "SELECT original, blob FROM clarity_files LEFT JOIN clarity_locations USING (location)"
            " WHERE owner = ? ORDER BY id",
            owner,
        )
        blobs = self.directory / "blobs"
        return [(row["original"], (blobs / row["blob"]).read_bytes() if row["blob"] else None) for row in rows]

    def placeholders(self) -> list[str]:
        """Return the empty placeholders of the open step; the first one is shared."""
        rows = self.rows("SELECT limsid FROM clarity_artifacts WHERE process = ? ORDER BY id", STEP)
        return [row["limsid"] for row in rows]

    # -- the three requests ----------------------------------------------------------------------------

    def post(self, path: str, body: str | bytes, content_type: str = "application/xml") -> httpx.Response:
        content = body.encode() if isinstance(body, str) else body
        return self.http.post(path, content=content, headers={"Content-Type": content_type})

    def allocate(self, target: str, name: str, more: str = "") -> httpx.Response:
        return self.post("glsstorage", record(f"{self.url}/api/v2/{target}", name, more))

    def attach(self, target: str, name: str) -> str:
        """Make a file's record, without bytes; return its LIMS ID."""
        answer = self.post("files", self.allocate(target, name).content)
        assert answer.status_code == 201, answer.text
        return str(ET.fromstring(answer.content).get("limsid"))

    def upload(self, limsid: str, data: bytes, part: str = "file") -> httpx.Response:
        return self.http.post(f"files/{limsid}/upload", files={part: ("any name", data)})

    def put(self, target: str, name: str, data: bytes) -> str:
        limsid = self.attach(target, name)
        answer = self.upload(limsid, data)
        assert answer.status_code == 200, answer.text
        return limsid


def record(target: str, name: str, more: str = "") -> str:
    root = ET.Element("{http://genologics.com/ri/file}file")
    ET.SubElement(root, "original-location").text = name
    ET.SubElement(root, "attached-to").text = target
    root.extend(ET.fromstring(f"<x>{more}</x>"))
    return ET.tostring(root, encoding="unicode")


def links(*uris: str) -> str:
    root = ET.Element(f"{{{RI}}}links")
    for uri in uris:
        ET.SubElement(root, "link", uri=uri)
    return ET.tostring(root, encoding="unicode")


def refused(answer: httpx.Response, status: int, words: str = "") -> None:
    """The answer is an exception as the vendor writes them."""
    assert answer.status_code == status, answer.text
    assert "<exc:exception" in answer.text
    root = ET.fromstring(answer.content)
    assert (root.tag, root.get("code")) == (f"{{{RI}/exception}}exception", str(status))
    assert words in (root.findtext("message") or "")


def local(root: ET.Element) -> list[str]:
    """Return the names of the children without their namespaces, each once."""
    return list(dict.fromkeys(child.tag.rpartition("}")[2] for child in root))
