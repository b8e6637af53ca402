"""The plain things that a Clarity stand-in is filled with: projects, samples, steps, placeholders, files.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from labfs.sandbox.clarity.shelf import REMOTE, Shelf, Target

ADA, GRACE = 1, 5  # researchers
PREFIXES = {"standard": "24", "pooling": "122"}


class Seeder:
    """Makes one thing at a time, each an hour after the one before it."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._now = dt.datetime(2024, 1, 17, 9, 5, 1, 895000, tzinfo=dt.UTC)

    def _later(self) -> dt.datetime:
        self._now += dt.timedelta(hours=1)
        return self._now

    def project(self, limsid: str, name: str, **fields: str) -> str:
        now = self._later()
        self._store.run(
            "INSERT INTO clarity_projects (limsid, name, researcher, opened, modified) VALUES (?, ?, ?, ?, ?)",
            limsid, name, ADA, now.date().isoformat(), now.timestamp(),
        )  # fmt: skip
        for field, value in fields.items():
            self.field(limsid, field, value)
        return limsid

    def field(self, owner: str, name: str, value: str, udt: str = "") -> None:
        kind = "Numeric" if value.replace(".", "", 1).isdecimal() else "String"
        self._store.run("INSERT INTO clarity_fields VALUES (?, ?, ?, ?, ?)", owner, udt, name, kind, value)

    def samples(self, project: str, names: Sequence[str]) -> list[str]:
        """Make submitted samples, each with its root artifact in a well of one plate."""
        plate, day = f"27-{self._shelf.number('container')}", self._later().date().isoformat()
        ids = [f"{project}A{number}" for number in range(1, len(names) + 1)]
        first = self._store.count("SELECT coalesce(max(id), 0) FROM clarity_artifacts") + 1

        def roots() -> Iterator[tuple[object, ...]]:
            for index, (limsid, name) in enumerate(zip(ids, names, strict=True)):
                well = f"{chr(ord('A') + index % 8)}:{index // 8 + 1}"
                yield (f"{limsid}PA1", name, 7900 + 2 * (first + index), plate, f"Plate {plate}", well)

        self._store.many(
            "INSERT INTO clarity_artifacts (limsid, name, type, state, container, container_name, well)"
            " VALUES (?, ?, 'Analyte', ?, ?, ?, ?)",
            roots(),
        )
        self._store.many(
            "INSERT INTO clarity_samples (limsid, name, project, submitter, received, artifact)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            ((limsid, name, project, GRACE, day, f"{limsid}PA1") for limsid, name in zip(ids, names, strict=True)),
        )
        self._store.many("INSERT INTO clarity_made_of VALUES (?, ?)", ((f"{limsid}PA1", limsid) for limsid in ids))
        return ids

    def control(self, name: str) -> str:
        """Make a control sample, which belongs to no project."""
        (limsid,) = self.samples("CTRL", [name])
        self._store.run("UPDATE clarity_samples SET project = NULL WHERE limsid = ?", limsid)
        return limsid

    def step(self, type_id: int, name: str, state: str = "Record Details", way: str = "standard") -> str:
        """Make the run of a step, without inputs yet."""
        limsid, now = f"{PREFIXES[way]}-{self._shelf.number('process')}", self._later()
        started = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        done = self._later().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._store.run(
            "INSERT INTO clarity_processes (limsid, type_id, type, technician, run, started, completed, state,"
            " modified) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            limsid, type_id, name, GRACE, now.date().isoformat(), started,
            done if state == "Completed" else None, state, now.timestamp(),
        )  # fmt: skip
        return limsid

    def placeholder(self, step: str, name: str, samples: Sequence[str], shared: bool = False) -> str:
        """Make a ResultFile output of the samples' root artifacts."""
        limsid = f"92-{self._shelf.number('result')}"
        self._output(step, limsid, name, "ResultFile", samples, "PerAllInputs" if shared else "PerInput", shared)
        return limsid

    def pool(self, step: str, name: str, samples: Sequence[str]) -> str:
        """Make an analyte of several samples."""
        limsid = f"2-{self._shelf.number('analyte')}"
        self._output(step, limsid, name, "Analyte", samples, "PerAllInputs", False)
        return limsid

    def _output(
        self, step: str, limsid: str, name: str, kind: str, samples: Sequence[str], generation: str, shared: bool
    ) -> None:
        self._store.run(
            "INSERT INTO clarity_artifacts (limsid, name, type, process, state, shared) VALUES (?, ?, ?, ?, ?, ?)",
            limsid, name, kind, step, self._shelf.number("state"), shared,
        )  # fmt: skip
        self._store.many("INSERT INTO clarity_made_of VALUES (?, ?)", ((limsid, sample) for sample in samples))
        self._store.many(
            "INSERT INTO clarity_maps VALUES (?, ?, ?, ?)",
            ((step, f"{sample}PA1", limsid, generation) for sample in samples),
        )

    def file(self, kind: str, owner: str, original: str, data: bytes | None) -> str:
        """Attach a file; without data its bytes never came."""
        return self.stored(kind, owner, original, None if data is None else self._store.put(data))

    def stored(self, kind: str, owner: str, original: str, blob: str | None) -> str:
        target = Target(kind, owner)
        location = self._shelf.allocate(target, original)
        if blob is not None:
            self._shelf.fill(location, blob)
        return str(self._shelf.attach(target, location, original)["limsid"])

    def linked(self, kind: str, owner: str, name: str, data: bytes) -> str:
        """Attach a file that lies on the remote store."""
        location = f"{REMOTE}{name}"
        self._store.run("INSERT INTO clarity_locations VALUES (?, ?)", location, self._store.put(data))
        return str(self._shelf.attach(Target(kind, owner), location, location.rpartition("/")[2])["limsid"])
