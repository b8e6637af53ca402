"""Lists of the Clarity stand-in that hold no files: plates, labs, people, types and what is configured.

They hold what the rest of the stand-in speaks of, and each thing no more than its name.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from labfs.sandbox.clarity.lists import first_index, turn
from labfs.sandbox.clarity.shelf import Shelf
from labfs.sandbox.clarity.shown import Shown
from labfs.sandbox.clarity.wire import Node, Refusal, node
from labfs.sandbox.cost import prepare
from labfs.sandbox.store import Row


@dataclass(frozen=True, slots=True)
class Kind:
    """One list. `rows` selects `id`, as an address has it, and `name`, oldest first."""

    root: str
    item: str
    rows: str
    filter: str = "name"
    limsid: bool = False  # whether ids are LIMS IDs, which links then show too
    named: bool = True  # whether links have the name as a child; else it is an attribute


_NONE = "SELECT 0 AS id, '' AS name WHERE 0"
_TYPES = "SELECT type_id AS id, type AS name FROM clarity_processes GROUP BY type_id ORDER BY type_id"
_PLATES = (
    "SELECT container AS id, container_name AS name FROM clarity_artifacts WHERE container IS NOT NULL"
    " GROUP BY container ORDER BY min(id)"
)
_CONTROLS = "SELECT 1 AS id, name FROM clarity_samples WHERE project IS NULL LIMIT 1"
_GROUPS = (
    "SELECT min(id) AS id, artifact_group AS name FROM clarity_artifacts WHERE artifact_group IS NOT NULL"
    " GROUP BY artifact_group ORDER BY min(id)"
)
_FIELDS = "SELECT min(rowid) AS id, name FROM clarity_fields WHERE udt {} '' GROUP BY name ORDER BY min(rowid)"
KINDS = {
    "containers": Kind("con:containers", "container", _PLATES, limsid=True),
    "containertypes": Kind("ctp:container-types", "container-type", "SELECT 1 AS id, '96 well plate' AS name",
                           named=False),
    "controltypes": Kind("ctrltp:control-types", "control-type", _CONTROLS, named=False),
    "labs": Kind("lab:labs", "lab", "SELECT 1 AS id, 'Sandbox lab' AS name"),
    "researchers": Kind("res:researchers", "researcher",
                        "SELECT id, first || ' ' || last AS name FROM clarity_researchers ORDER BY id", "firstname"),
    "processtypes": Kind("ptp:process-types", "process-type", _TYPES, "displayname", named=False),
    "artifactgroups": Kind("artgr:artifactgroups", "artifactgroup", _GROUPS),
    "reagenttypes": Kind("rtp:reagent-types", "reagent-type", _NONE, named=False),
    "reagentkits": Kind("kit:reagent-kits", "reagent-kit", _NONE),
    "reagentlots": Kind("lot:reagent-lots", "reagent-lot", _NONE),
    "instruments": Kind("inst:instruments", "instrument", _NONE),
    "permissions": Kind("perm:permissions", "permission", _NONE),
    "roles": Kind("role:roles", "role", _NONE),
    "configuration/protocols": Kind("protcnf:protocols", "protocol", "SELECT 1 AS id, 'Sandbox protocol' AS name",
                                    named=False),
    "configuration/workflows": Kind("wkfcnf:workflows", "workflow", "SELECT 1 AS id, 'Sandbox workflow' AS name",
                                    named=False),
    "configuration/udfs": Kind("cnf:udfs", "udfconfig", _FIELDS.format("="), named=False),
    "configuration/udts": Kind("cnf:udts", "udtconfig", _FIELDS.format("!="), named=False),
}  # fmt: skip
# Of these single things exist already, in forms of their own.
SHOWN_ELSEWHERE = ("researchers", "processtypes")


class Others:
    """Answers a list, or one thing of it."""

    def __init__(self, shelf: Shelf, shown: Shown) -> None:
        self._shelf = shelf
        self._shown = shown

    def page(self, name: str, query: str) -> Node:
        kind, pairs = KINDS[name], parse_qsl(query, keep_blank_values=True)
        start, size = first_index(pairs), max(self._shelf.switches.page_size, 1)
        wanted = {value for key, value in pairs if key == kind.filter}
        rows = [row for row in self._shelf.store.all(kind.rows) if not wanted or _filtered(name, row) in wanted]
        shown = rows[start : start + size]
        prepare(len(shown))
        made = node(kind.root, children=[self._link(name, kind, row) for row in shown])
        if start:
            made.append(turn(self._shown, "previous-page", name, pairs, max(start - size, 0)))
        if len(rows) > start + size:
            made.append(turn(self._shown, "next-page", name, pairs, start + size))
        return made

    def one(self, name: str, number: str) -> Node:
        kind = KINDS[name]
        for row in self._shelf.store.all(kind.rows):
            if str(row["id"]) == number:
                return self._thing(f"{kind.root.partition(':')[0]}:{kind.item}", name, kind, row, kind.named)
        raise Refusal(404, f"Requested resource not found: {name} {number}")

    def _link(self, name: str, kind: Kind, row: Row) -> Node:
        made = self._thing(kind.item, name, kind, row, kind.named and name != "researchers")
        if name == "researchers":
            first, _, last = row["name"].partition(" ")
            made.extend([node("first-name", text=first), node("last-name", text=last)])
        return made

    def _thing(self, tag: str, name: str, kind: Kind, row: Row, named: bool) -> Node:
        about = {"uri": self._shown.address(f"/{name}/{row['id']}")}
        if kind.limsid:
            about["limsid"] = str(row["id"])
        if not kind.named:
            about["name"] = row["name"]
        return node(tag, about, children=[node("name", text=row["name"])] if named else ())


def _filtered(name: str, row: Row) -> str:
    """Return the part of a name that the list's filter is about."""
    return str(row["name"]).partition(" ")[0] if name == "researchers" else str(row["name"])
