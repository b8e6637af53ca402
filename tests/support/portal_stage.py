"""What the tests of the Portal's backend play on: the service by plain HTTP, and its store."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import httpx
from stage import Sandbox

from labfs.sandbox.portal.shelf import Switches

ADA = "10000000-0f5a-4165-b518-b2386a753d6f"
BEN = "20000000-a55d-42b7-b53e-056956e18b8c"
_numbers = itertools.count(1)


class Service:
    """The running stand-in, seen by plain HTTP and straight in its store."""

    def __init__(self, sandbox: Sandbox) -> None:
        known = json.loads((sandbox.directory / "sandbox.json").read_text())
        self.url: str = known["sites"]["portal"]
        self.blobs: str = known["blobs"]
        self.known: dict[str, str] = known["credentials"]["portal"]
        self.directory = sandbox.directory
        self._control: str = known["control"]
        self.http = httpx.Client(base_url=f"{self.url}/v1/", trust_env=False, verify=False, timeout=30)

    def close(self) -> None:
        self.calm()
        self.http.close()

    def calm(self) -> None:
        self.switch(**dataclasses.asdict(Switches()))

    def switch(self, **values: Any) -> None:
        self.http.post(f"{self._control}/switches", json={"portal": values}).raise_for_status()

    def ask(self, method: str, path: str, who: str = "token", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Token {self.known[who]}"} if who else {}
        return self.http.request(method, path, headers=headers, **options)

    def get(self, path: str, who: str = "token", **params: Any) -> Any:
        answer = self.ask("GET", path, who, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, name: str, data: bytes, who: str = "token", **fields: Any) -> int:
        """Upload a file behind labfs's back; return its id."""
        fields = {"filename": name, **fields}
        answer = self.ask("POST", "attachments/", who, files={"file": (name, data)}, data=fields)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def delete(self, number: int, who: str = "token") -> None:
        assert self.ask("DELETE", f"attachments/{number}/", who).status_code in (204, 404)

    def team(self, name: str) -> int:
        found = self.get("organizations/", limit=1000)["results"]
        return int(next(team["id"] for team in found if team["name"] == name))

    # -- behind it

    @contextlib.contextmanager
    def store(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite", timeout=30)) as db, db:
            db.row_factory = sqlite3.Row
            yield db

    def rows(self, where: str = "NOT removed", *values: Any) -> list[dict[str, Any]]:
        """Return attachments that are there, oldest first, with their bytes as `data`."""
        with self.store() as db:
            sql = f"SELECT * FROM portal_attachments WHERE {where} ORDER BY id"
            found = [dict(row) for row in db.execute(sql, values)]
        folder = self.directory / "blobs"
        return [row | {"data": (folder / row["blob"]).read_bytes() if row["blob"] else None} for row in found]

    def _insert(self, table: str, **values: Any) -> int:
        now = time.time_ns() // 1000
        values = {**values, "created": now, "updated": now}
        marks = ", ".join("?" * len(values))
        with self.store() as db:
            sql = f"INSERT INTO portal_{table} ({', '.join(values)}) VALUES ({marks})"
            return int(db.execute(sql, list(values.values())).lastrowid or 0)

    def counters(self) -> dict[str, int]:
        """Return the highest number that each table has given out."""
        with self.store() as db:
            return {
                row["name"]: row["seq"] for row in db.execute("SELECT * FROM sqlite_sequence") if "portal" in row[0]
            }

    def forget(self, before: dict[str, int]) -> None:
        """Take away all rows made since; others count what the seed made."""
        with self.store() as db:
            for table, number in before.items():
                db.execute(f"DELETE FROM {table} WHERE id > ?", (number,))
            db.execute("DELETE FROM portal_members WHERE organization > ?", (before["portal_organizations"],))

    def new_team(self, *members: str) -> Team:
        """Make an organization; the service has no call for it that labfs could use."""
        name = f"Team {next(_numbers)} of {os.getpid()}"
        number = self._insert("organizations", name=name, description="", personal=0, owner=members[0])
        with self.store() as db:
            db.executemany("INSERT INTO portal_members VALUES (?, ?)", [(number, member) for member in members])
        return Team(self, number, name)

    def material(self, team: int, title: str, mta: int | None = None) -> int:
        return self._insert(
            "materials", organization=team, contact=ADA, category="DATASET", title=title, mta=mta, details="{}"
        )

    def agreement(self, material: int) -> int | None:
        """Return the id of a material's agreement, straight from the store."""
        with self.store() as db:
            (found,) = db.execute("SELECT mta FROM portal_materials WHERE id = ?", (material,)).fetchone()
        return found

    def agree(self, material: int, attachment: int | None) -> None:
        with self.store() as db:
            db.execute("UPDATE portal_materials SET mta = ? WHERE id = ?", (attachment, material))


class Team:
    """An organization made for one test, with one material."""

    def __init__(self, service: Service, number: int, name: str) -> None:
        self.service = service
        self.number = number
        self.name = name
        self.material = service.material(number, "Material")

    def put(self, name: str, data: bytes, material: int | None = None, who: str = "token", **fields: Any) -> int:
        fields = {"owned_by_org": self.number, **fields}
        if material is not None:
            fields["sequence_map_for"] = material
        return self.service.put(name, data, who, **fields)

    def rows(self) -> list[dict[str, Any]]:
        return self.service.rows("NOT removed AND organization = ?", self.number)


@contextlib.contextmanager
def opened(sandbox: Sandbox) -> Iterator[Service]:
    """Yield the service with its usual switches but no limit for bodies; all are the usual ones afterwards."""
    service = Service(sandbox)
    service.calm()
    service.switch(body_limit=0)
    before = service.counters()
    yield service
    service.forget(before)
    service.close()
