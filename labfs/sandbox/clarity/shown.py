"""Rows of the Clarity stand-in as XML, children in the order of the vendor's schema.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from labfs.sandbox.clarity.shelf import BASE, REMOTE, Shelf
from labfs.sandbox.clarity.wire import Node, node
from labfs.sandbox.store import Row

LISTS = {"projects": "prj", "samples": "smp", "artifacts": "art", "processes": "prc", "files": "file"}
ONE = {"projects": "project", "samples": "sample", "artifacts": "artifact", "processes": "process", "files": "file"}


def bare(original: str) -> str:
    """Return the name of a file as the server derives it: what follows the last slash of either kind."""
    return re.split(r"[/\\]", original)[-1]


class Shown:
    """Turns rows into elements; `origin` tells the address of the service."""

    def __init__(self, shelf: Shelf, origin: Callable[[], str]) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._switches = shelf.switches
        self._origin = origin

    def address(self, path: str = "") -> str:
        """Return the absolute address of a path below the base, as the server believes it to be."""
        return f"{self._switches.host or self._origin()}{BASE}{path}"

    def link(self, tag: str, path: str, limsid: str, **more: str) -> Node:
        return node(tag, {"uri": self.address(f"/{path}"), "limsid": limsid, **more})

    def item(self, kind: str, row: Row) -> Node:
        """Return a row's line in a list."""
        limsid = row["limsid"]
        path = self._stated(row) if kind == "artifacts" else f"{kind}/{limsid}"
        made = self.link(ONE[kind], path, limsid)
        if kind == "projects":
            made.append(node("name", text=row["name"]))
        return made

    def project(self, row: Row) -> Node:
        made = self.link("prj:project", f"projects/{row['limsid']}", row["limsid"])
        made.append(node("name", text=row["name"]))
        made.append(node("open-date", text=row["opened"]))
        made.append(node("researcher", {"uri": self.address(f"/researchers/{row['researcher']}")}))
        made.extend(self._fields(row["limsid"]))
        made.extend(self._files(row["limsid"]))
        return made

    def sample(self, row: Row) -> Node:
        made = self.link("smp:sample", f"samples/{row['limsid']}", row["limsid"])
        made.append(node("name", text=row["name"]))
        made.append(node("date-received", text=row["received"]))
        if row["project"]:
            made.append(self.link("project", f"projects/{row['project']}", row["project"]))
        else:
            made.append(node("control-type", {"uri": self.address("/controltypes/1"), "name": row["name"]}))
        made.append(self._person("submitter", row["submitter"]))
        root = self._shelf.row("artifacts", row["artifact"])
        made.append(self.link("artifact", self._stated(root), root["limsid"]))
        made.extend(self._fields(row["limsid"]))
        made.extend(self._files(row["limsid"]))
        return made

    def artifact(self, row: Row, state: int | None = None) -> Node:
        limsid = row["limsid"]
        made = self.link("art:artifact", self._stated(row, state), limsid)
        made.append(node("name", text=row["name"]))
        made.append(node("type", text=row["type"]))
        made.append(node("output-type", text=self._output_type(row)))
        if row["process"]:
            made.append(self.link("parent-process", f"processes/{row['process']}", row["process"]))
        made.append(node("qc-flag", text=row["qc"]))
        if row["container"]:
            place = self.link("container", f"containers/{row['container']}", row["container"])
            made.append(node("location", children=[place, node("value", text=row["well"])]))
        made.append(node("working-flag", text="true" if row["working"] else "false"))
        made.extend(self.link("sample", f"samples/{s['limsid']}", s["limsid"]) for s in self._shelf.samples_of(limsid))
        if row["label"]:
            made.append(node("reagent-label", {"name": row["label"]}))
        made.extend(self._fields(limsid))
        if self._switches.embedded_files:
            made.extend(self.file(file) for file in self._shelf.files_of(limsid))
        else:
            made.extend(self._files(limsid))
        return made

    def process(self, row: Row) -> Node:
        made = self.link("prc:process", f"processes/{row['limsid']}", row["limsid"])
        made.append(node("type", {"uri": self.address(f"/processtypes/{row['type_id']}")}, row["type"]))
        made.append(node("date-run", text=row["run"]))
        made.append(self._person("technician", row["technician"]))
        made.extend(self._maps(row["limsid"], "output-type"))
        made.extend(self._fields(row["limsid"]))
        made.extend(self._files(row["limsid"]))
        return made

    def process_type(self, number: int, name: str) -> Node:
        """Return what both public clients read of a type: its name, and the kinds of output that its runs made."""
        sql = (
            "SELECT DISTINCT a.type, a.shared, m.generation FROM clarity_processes p"
            " JOIN clarity_maps m ON m.process = p.limsid JOIN clarity_artifacts a ON a.limsid = m.output"
            " WHERE p.type_id = ? ORDER BY a.type, m.generation"
        )
        made = node("ptp:process-type", {"uri": self.address(f"/processtypes/{number}"), "name": name})
        made.append(
            node(
                "process-input", children=[node("artifact-type", text="Analyte"), node("display-name", text="Analyte")]
            )
        )
        for row in self._store.all(sql, number):
            output = node("process-output")
            output.append(node("artifact-type", text=row["type"]))
            output.append(node("display-name", text=self._output_type(row)))
            output.append(node("output-generation-type", text=row["generation"]))
            made.append(output)
        return made

    def researcher(self, row: Row) -> Node:
        names = [node("first-name", text=row["first"]), node("last-name", text=row["last"])]
        return node("res:researcher", {"uri": self.address(f"/researchers/{row['id']}")}, children=names)

    def step(self, row: Row) -> Node:
        path = f"steps/{row['limsid']}"
        made = self.link("stp:step", path, row["limsid"])
        made.set("current-state", row["state"])
        made.append(self._configuration(row))
        made.append(node("date-started", text=row["started"]))
        if row["completed"]:
            made.append(node("date-completed", text=row["completed"]))
        made.append(node("setup", {"uri": self.address(f"/{path}/setup")}))
        made.append(node("details", {"uri": self.address(f"/{path}/details")}))
        return made

    def details(self, row: Row) -> Node:
        made = node("stp:details", {"uri": self.address(f"/steps/{row['limsid']}/details")})
        made.append(node("step", {"uri": self.address(f"/steps/{row['limsid']}"), "rel": "steps"}))
        made.append(self._configuration(row))
        made.append(node("input-output-maps", children=self._maps(row["limsid"], "type")))
        made.append(node("fields", children=self._fields(row["limsid"])))
        return made

    def setup(self, row: Row) -> Node:
        """Return the placeholders that all inputs of a step share."""
        made = node("stp:setup", {"uri": self.address(f"/steps/{row['limsid']}/setup")})
        made.append(node("step", {"uri": self.address(f"/steps/{row['limsid']}"), "rel": "steps"}))
        made.append(self._configuration(row))
        sql = "SELECT * FROM clarity_artifacts WHERE process = ? AND shared ORDER BY id"
        files = [
            node("file", {
                "name": artifact["name"], "limsid": artifact["limsid"],
                "artifact-uri": self.address(f"/artifacts/{artifact['limsid']}"),
                "shared-result-file-index": str(index),
            })
            for index, artifact in enumerate(self._store.all(sql, row["limsid"]), 1)
        ]  # fmt: skip
        made.append(node("files", children=files))
        return made

    def file(self, row: Row) -> Node:
        """Return a file's record: there is no size, date, checksum or type in it."""
        made = self.link("file:file", f"files/{row['limsid']}", row["limsid"])
        made.append(node("attached-to", text=self.address(f"/{row['kind']}/{row['owner']}")))
        made.append(node("content-location", text=self.outside(row["location"])))
        made.append(node("original-location", text=row["original"]))
        if self._switches.original_name:
            made.append(node("original-name", text=bare(row["original"])))
        made.append(node("is-published", text="true" if row["published"] else "false"))
        return made

    def storage(self, target: str, location: str, original: str) -> Node:
        """Return the answer to an allocation: no record yet, so neither address nor LIMS ID."""
        children = [
            node("attached-to", text=self.address(f"/{target}")),
            node("content-location", text=location),
            node("original-location", text=original),
        ]
        return node("file:file", children=children)

    def outside(self, location: str) -> str:
        """Return a location as clients see it; the remote store's is kept without its origin."""
        return f"{self._origin()}{location}" if location.startswith(REMOTE) else location

    def inside(self, location: str) -> str:
        return location.removeprefix(self._origin()) if location.startswith(self._origin() + REMOTE) else location

    # -- pieces ----------------------------------------------------------------------------------------

    def _stated(self, artifact: Row, state: int | None = None) -> str:
        return f"artifacts/{artifact['limsid']}?state={artifact['state'] if state is None else state}"

    def _output_type(self, artifact: Row) -> str:
        return str(self._switches.shared_type if artifact["shared"] else artifact["type"])

    def _configuration(self, row: Row) -> Node:
        uri = self.address(f"/configuration/protocols/1/steps/{row['type_id']}")
        return node("configuration", {"uri": uri}, row["type"])

    def _files(self, owner: str) -> list[Node]:
        return [self.link("file:file", f"files/{r['limsid']}", r["limsid"]) for r in self._shelf.files_of(owner)]

    def _fields(self, owner: str) -> list[Node]:
        rows = self._store.all("SELECT * FROM clarity_fields WHERE owner = ? ORDER BY rowid", owner)
        made = [node("udf:field", {"type": r["type"], "name": r["name"]}, r["value"]) for r in rows if not r["udt"]]
        for name in dict.fromkeys(row["udt"] for row in rows if row["udt"]):
            fields = [
                node("udf:field", {"type": r["type"], "name": r["name"]}, r["value"]) for r in rows if r["udt"] == name
            ]
            made.insert(0, node("udf:type", {"name": name}, children=fields))
        return made

    def _person(self, tag: str, number: int) -> Node:
        row = self._store.one("SELECT * FROM clarity_researchers WHERE id = ?", number)
        assert row is not None
        children = [node("first-name", text=row["first"]), node("last-name", text=row["last"])]
        return node(tag, {"uri": self.address(f"/researchers/{number}")}, children=children)

    def _maps(self, process: str, type_attribute: str) -> list[Node]:
        """Return each pair of input and output; a shared output repeats for every input."""
        switches = self._switches
        shared = switches.shared_step_type if type_attribute == "type" else switches.shared_type
        sql = (
            "SELECT m.*, i.state AS input_state, o.state AS output_state, o.type AS output_type, o.shared"
            " FROM clarity_maps m JOIN clarity_artifacts i ON i.limsid = m.input"
            " LEFT JOIN clarity_artifacts o ON o.limsid = m.output WHERE m.process = ? ORDER BY m.rowid"
        )
        made = []
        for row in self._store.all(sql, process):
            place = f"artifacts/{row['input']}?state="
            after = {"post-process-uri": self.address(f"/{place}{row['input_state'] + 1}")}
            pair = node("input-output-map")
            pair.append(self.link("input", f"{place}{row['input_state']}", row["input"], **after))
            if row["output"]:
                kind = shared if row["shared"] else row["output_type"]
                about = {type_attribute: kind, "output-generation-type": row["generation"]}
                output = f"artifacts/{row['output']}?state={row['output_state']}"
                pair.append(self.link("output", output, row["output"], **about))
            made.append(pair)
        return made
