"""How the REDCap stand-in reads a form and writes an answer: JSON, CSV or XML, errors included.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

FORMATS = ("json", "csv", "xml", "odm")
DELIMITERS = {"tab": "\t", "\t": "\t", ";": ";", "|": "|", "^": "^"}
XML = '<?xml version="1.0" encoding="UTF-8" ?>'
_ARRAY = re.compile(r"^(\w+)\[\w*\]$")
_QUOTED = re.compile(r'[\s",;|^]')

Values = Mapping[str, Any]


class Refusal(Exception):
    """A request that is answered with an error, in the format that was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Ask:
    """The fields of a request, as PHP would see them."""

    def __init__(self, form: FormData) -> None:
        self._values: dict[str, str] = {}
        self._lists: dict[str, list[str]] = {}
        self.file: UploadFile | None = None
        for name, value in form.multi_items():
            array = _ARRAY.match(name)
            if isinstance(value, UploadFile):
                self.file = value if name == "file" else self.file
            elif array:
                self._lists.setdefault(array[1], []).append(value)
            else:
                self._values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, default)

    def flag(self, name: str) -> bool:
        return self.get(name).strip().lower() in ("true", "1")

    def array(self, name: str) -> list[str] | None:
        """Return the values of an array; None where it was not sent as one."""
        return self._lists.get(name)

    def commas(self, name: str) -> list[str] | None:
        """Return what was sent as one string with commas."""
        text = self.get(name).strip()
        return [part.strip() for part in text.split(",")] if text else None

    def number(self, name: str) -> int | None:
        """Return a whole number; None for nothing. Raises Refusal for anything else."""
        text = self.get(name).strip()
        if not text:
            return None
        if not text.isascii() or not text.isdigit():
            raise Refusal(400, f'The value of the parameter "{name}" is not valid')
        return int(text)

    @property
    def format(self) -> str:
        """The format of data."""
        asked = self.get("format").lower()
        return asked if asked in FORMATS else "xml"

    @property
    def return_format(self) -> str:
        """The format of errors, and of what an import answers."""
        asked = self.get("returnFormat").lower()
        return asked if asked in FORMATS[:3] else self.format


def error(status: int, message: str, form: str, charset: str = "; charset=utf-8") -> Response:
    if form == "json":
        return Response(json.dumps({"error": message}), status, media_type=f"application/json{charset}")
    if form == "csv":
        return Response(f"ERROR: {message}", status, headers={"Content-Type": f"text/csv{charset}"})
    body = f"{XML}<hash><error>{escape(message)}</error></hash>"
    return Response(body, status, headers={"Content-Type": f"text/xml{charset}"})


def php_json(value: Any) -> str:
    """Return compact JSON as PHP writes it: escaped slashes, and ASCII."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def csv_text(rows: Iterable[Values], columns: Sequence[str], delimiter: str = ",") -> str:
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(_cell(row.get(column, "")) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def xml_text(rows: Iterable[Values], root: str) -> str:
    items = "\n".join("<item>" + "".join(_element(*pair) for pair in row.items()) + "</item>" for row in rows)
    return f"{XML}\n<{root}>\n{items}\n</{root}>"


def _element(name: str, value: Any) -> str:
    text = str(value)
    if text and not isinstance(value, int):
        text = "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"
    return f"<{name}>{text}</{name}>"


class Writer:
    """Writes the answers of one request."""

    def __init__(self, ask: Ask, charset: str) -> None:
        self._ask = ask
        self._charset = charset

    def table(self, rows: Sequence[Values], root: str, columns: Sequence[str] | None = None) -> Response:
        """Answer rows; an empty CSV has its columns, if they are told."""
        form = self._ask.format
        if form == "json":
            return self.text(php_json(rows), "application/json")
        if form == "csv":
            delimiter = DELIMITERS.get(self._ask.get("csvDelimiter"), ",")
            names = columns or (list(rows[0]) if rows else [])
            return self.text(csv_text(rows, names, delimiter) if names else "", "text/csv")
        return self.text(xml_text(rows, root), "text/xml")

    def single(self, values: Values) -> Response:
        """Answer one object: no array around it in JSON, no items in XML."""
        if self._ask.format == "json":
            return self.text(php_json(values), "application/json")
        if self._ask.format == "csv":
            return self.text(csv_text([values], list(values)), "text/csv")
        body = "".join(_element(*pair) for pair in values.items())
        return self.text(f"{XML}\n<items>{body}</items>", "text/xml")

    def count(self, number: int) -> Response:
        """Answer what an import or a deletion did: a bare number."""
        kinds = {"json": "application/json", "csv": "text/csv"}
        return self.text(str(number), kinds.get(self._ask.return_format, "text/xml"))

    def text(self, body: str, media_type: str) -> Response:
        return Response(body, headers={"Content-Type": f"{media_type}{self._charset}"})
