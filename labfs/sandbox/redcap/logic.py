"""The part of REDCap's filter logic that clients use: comparisons of fields, joined by `and` and `or`.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from labfs.sandbox.redcap.answers import Refusal

Test = Callable[[Mapping[str, Any]], bool]

_COMPARISON = re.compile(
    r"""\s*(?:\[(?P<event>\w+)\])?\[(?P<field>\w+)(?:\((?P<code>\w+)\))?\]\s*
        (?P<how>=|!=|<>|<=|>=|<|>)\s*(?:'(?P<one>[^']*)'|"(?P<two>[^"]*)"|(?P<bare>-?[\d.]+))\s*$""",
    re.VERBOSE,
)
_HOW: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def parse(text: str) -> tuple[Test, set[str]]:
    """Return a test of a row, and the columns that it looks at. Raises Refusal."""
    columns: set[str] = set()
    choices = []
    for choice in re.split(r"\s+or\s+", text, flags=re.IGNORECASE):
        parts = re.split(r"\s+and\s+", choice, flags=re.IGNORECASE)
        choices.append([_comparison(part, columns) for part in parts])
    return lambda row: any(all(test(row) for test in tests) for tests in choices), columns


def _comparison(text: str, columns: set[str]) -> Test:
    match = _COMPARISON.match(text)
    if match is None:
        raise Refusal(400, "The value of the parameter 'filterLogic' is not valid: it has errors in its syntax")
    column = f"{match['field']}___{match['code']}" if match["code"] else match["field"]
    columns.add(column)
    wanted = next(value for value in (match["one"], match["two"], match["bare"]) if value is not None)
    how, event = _HOW[match["how"]], match["event"]

    def test(row: Mapping[str, Any]) -> bool:
        if event and row.get("redcap_event_name") != event:
            return False
        found = str(row.get(column, ""))
        try:
            return how(float(found), float(wanted))
        except ValueError:
            # Nothing is less and more than nothing.
            return bool(found or match["how"] in ("=", "!=", "<>")) and how(found, wanted)

    return test
