"""Lists of the Clarity stand-in: filters, and pages that link to the next one.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from labfs.sandbox.clarity.shelf import Shelf
from labfs.sandbox.clarity.shown import LISTS, Shown
from labfs.sandbox.clarity.wire import Node, Refusal, node
from labfs.sandbox.cost import prepare
from labfs.sandbox.store import Row

_SAMPLES = "limsid IN (SELECT m.artifact FROM clarity_made_of m JOIN clarity_samples s ON s.limsid = m.sample WHERE "
_INPUTS = "limsid IN (SELECT process FROM clarity_maps WHERE "
_PROJECTS = (
    f"{_INPUTS} input IN (SELECT m.artifact FROM clarity_made_of m JOIN clarity_samples s ON s.limsid = m.sample"
    " JOIN clarity_projects p ON p.limsid = s.project WHERE "
)
_TECHNICIANS = "technician IN (SELECT id FROM clarity_researchers WHERE "

# kind → parameter → condition; `{}` becomes one mark for each value of the parameter
FILTERS: dict[str, dict[str, str]] = {
    "projects": {"name": "name IN ({})"},
    "samples": {
        "name": "name IN ({})",
        "projectlimsid": "project IN ({})",
        "projectname": "project IN (SELECT limsid FROM clarity_projects WHERE name IN ({}))",
    },
    "artifacts": {
        "name": "name IN ({})",
        "type": "type IN ({})",
        "process-type": "process IN (SELECT limsid FROM clarity_processes WHERE type IN ({}))",
        "working-flag": "CASE working WHEN 1 THEN 'true' ELSE 'false' END IN ({})",
        "qc-flag": "qc IN ({})",
        "sample-name": _SAMPLES + "s.name IN ({}))",
        "samplelimsid": _SAMPLES + "s.limsid IN ({}))",
        "containername": "container_name IN ({})",
        "containerlimsid": "container IN ({})",
        "artifactgroup": "artifact_group IN ({})",
        "reagent-label": "label IN ({})",
    },
    "processes": {
        "type": "type IN ({})",
        "inputartifactlimsid": _INPUTS + "input IN ({}))",
        "projectname": _PROJECTS + "p.name IN ({})))",
        "techfirstname": _TECHNICIANS + "first IN ({}))",
        "techlastname": _TECHNICIANS + "last IN ({}))",
    },
    "files": {},
}
DATES = {"projects": {"open-date", "last-modified"}, "processes": {"last-modified"}}
_FIELD = re.compile(r"(?P<name>.+?)(?:\.(?P<new>min|max)|\[(?P<old>.*)\])?")
# Every file of a project: its own, and those of its samples and of the steps and placeholders made of them.
_IDS = "SELECT limsid FROM clarity_samples WHERE project IN ({0})"
_OF_PROJECT = (
    f"owner IN ({{0}}) OR owner IN ({_IDS})"
    f" OR owner IN (SELECT artifact FROM clarity_made_of WHERE sample IN ({_IDS}))"
    " OR owner IN (SELECT process FROM clarity_maps WHERE input IN"
    f" (SELECT artifact FROM clarity_made_of WHERE sample IN ({_IDS})))"
)
_OF_TYPE = (
    "owner IN (SELECT limsid FROM clarity_processes WHERE type IN ({0})) OR owner IN"
    " (SELECT a.limsid FROM clarity_artifacts a JOIN clarity_processes p ON p.limsid = a.process WHERE p.type IN ({0}))"
)


class Lists:
    """Answers the list of a kind for a query."""

    def __init__(self, shelf: Shelf, shown: Shown) -> None:
        self._shelf = shelf
        self._shown = shown

    def page(self, kind: str, query: str) -> Node:
        pairs = parse_qsl(query, keep_blank_values=True)
        start, size = first_index(pairs), max(self._shelf.switches.page_size, 1)
        where, values = self._where(kind, pairs)
        sql = f"SELECT * FROM clarity_{kind} WHERE {where} ORDER BY id LIMIT ? OFFSET ?"
        rows: list[Row] = self._shelf.store.all(sql, *values, size + 1, start)
        prepare(min(len(rows), size))
        made = node(f"{LISTS[kind]}:{kind}", children=[self._shown.item(kind, row) for row in rows[:size]])
        if start:
            made.append(turn(self._shown, "previous-page", kind, pairs, max(start - size, 0)))
        if len(rows) > size:
            made.append(turn(self._shown, "next-page", kind, pairs, start + size))
        return made

    def _where(self, kind: str, pairs: list[tuple[str, str]]) -> tuple[str, list[Any]]:
        """Return the condition: values of one parameter are alternatives, parameters are not."""
        asked: dict[str, list[str]] = {}
        for name, value in pairs:
            if name != "start-index" and value not in asked.setdefault(name, []):
                asked[name].append(value)
        conditions, values = ["1"], []
        for name, alternatives in asked.items():
            found = self._condition(kind, name, alternatives, asked)
            if found is not None:
                conditions.append(f"({found[0]})")
                values += found[1]
            elif self._shelf.switches.unknown_parameter == "refuse":
                raise Refusal(400, f"Unknown parameter {name!r} for {kind}")
        return " AND ".join(conditions), values

    def _condition(
        self, kind: str, name: str, values: list[str], asked: Mapping[str, list[str]]
    ) -> tuple[str, list[Any]] | None:
        template = self._template(kind, name)
        if template is not None:
            marks = ", ".join("?" * len(values))
            return template.format(marks), values * len(re.findall(r"\{0?\}", template))
        if name in DATES.get(kind, ()):
            column, read = ("opened", _day) if name == "open-date" else ("modified", _moment)
            return " OR ".join(f"{column} >= ?" for _ in values), [read(value) for value in values]
        prefix, _, rest = name.partition(".")
        if prefix == "udf" and rest and kind != "files":
            if kind == "artifacts" and len(asked.get("type", ())) != 1:
                raise Refusal(400, "A filter by user-defined field needs exactly one artifact type")
            return _field(kind, "", rest, values)
        if prefix == "udt" and rest and kind == "projects":
            if rest == "name":
                marks = ", ".join("?" * len(values))
                return f"limsid IN (SELECT owner FROM clarity_fields WHERE udt IN ({marks}))", values
            udt, _, rest = rest.partition(".")
            return _field(kind, udt, rest, values)
        return None

    def _template(self, kind: str, name: str) -> str | None:
        switches = self._shelf.switches
        if kind == "processes" and name == "projectlimsid" and switches.processes_by_project_id:
            return _PROJECTS + "p.limsid IN ({})))"
        if kind == "files":
            return {switches.files_project: _OF_PROJECT, switches.files_process_type: _OF_TYPE}.get(name)
        return FILTERS[kind].get(name)


def _field(kind: str, udt: str, rest: str, values: list[str]) -> tuple[str, list[Any]]:
    """Return the condition on a user-defined field, `NAME`, `NAME.min` or, in the old way, `NAME[min]`."""
    found = _FIELD.fullmatch(rest)
    name = found["name"] if found else rest
    operator = (found["new"] or found["old"]) if found else None
    compare = {None: "f.value = ?", "min": "CAST(f.value AS REAL) >= ?", "max": "CAST(f.value AS REAL) <= ?"}
    if operator not in compare:
        raise Refusal(400, f"Unknown operator {operator!r}")
    wanted: list[Any] = values if operator is None else [_real(value) for value in values]
    alternatives = " OR ".join(compare[operator] for _ in wanted)
    sql = (
        f"EXISTS (SELECT 1 FROM clarity_fields f WHERE f.owner = clarity_{kind}.limsid AND f.udt = ? AND f.name = ?"
        f" AND ({alternatives}))"
    )
    return sql, [udt, name, *wanted]


def turn(shown: Shown, tag: str, kind: str, pairs: list[tuple[str, str]], start: int) -> Node:
    """Return the link to another page, with the filters of this one each once."""
    kept = dict.fromkeys(pair for pair in pairs if pair[0] != "start-index")
    query = urlencode([("start-index", str(start)), *kept])
    return node(tag, {"uri": shown.address(f"/{kind}?{query}")})


def first_index(pairs: list[tuple[str, str]]) -> int:
    given = [value for name, value in pairs if name == "start-index"]
    if given and not re.fullmatch(r"[0-9]{1,9}", given[-1]):
        raise Refusal(400, f"start-index must be a number from 0: {given[-1]!r}")
    return int(given[-1]) if given else 0


def _real(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise Refusal(400, f"Not a number: {value!r}") from None


def _day(value: str) -> str:
    try:
        return dt.date.fromisoformat(value).isoformat()
    except ValueError:
        raise Refusal(400, f"Not a date like YYYY-MM-DD: {value!r}") from None


def _moment(value: str) -> float:
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        moment = dt.datetime.min
    if moment.tzinfo is None:
        raise Refusal(400, f"Not a time like YYYY-MM-DDThh:mm:ssTZD: {value!r}")
    return moment.timestamp()
