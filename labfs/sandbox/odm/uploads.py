"""The form that carries a file: read as it comes, its bytes straight to the disk.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from labfs.sandbox.odm.answers import Refusal
from labfs.sandbox.odm.switches import Switches
from labfs.sandbox.store import MIB, Store

LARGEST_TEXT = 16 * MIB  # of a text field, and of the metadata


@dataclass(slots=True)
class Form:
    """What came: the text fields, the metadata file if there was one, and the file as a blob."""

    fields: dict[str, str] = field(default_factory=dict)
    metadata: bytes | None = None
    name: str | None = None  # of the file
    blob: str = ""
    size: int = 0


class Receiver:
    """Reads one form. The file is to be its last part: what follows it is `late`."""

    def __init__(self, request: Request, switches: Switches) -> None:
        self._request = request
        self._switches = switches
        self._form = Form()
        self._late: str | None = None
        self._complete = False
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._part, self._filename = "", None  # type: tuple[str, str | None]
        self._text = bytearray()
        self._pieces: list[bytes] = []
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refusal(400, "This route takes multipart/form-data.")
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._start,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    async def receive(self, store: Store) -> Form:
        """Read the form to its end. Raises Refusal, and then nothing of it stays."""
        self._form.blob, self._form.size, _ = await store.receive(self._bytes())
        problem = None
        if not self._complete:
            problem = "The form ends before its last boundary."
        elif self._form.name is None:
            problem = "The form has no part “file” with a filename."
        elif self._late is not None and self._switches.late_field == "refuse":
            problem = f"The field “{self._late}” must come before “file”."
        if problem is not None:
            store.drop(self._form.blob)
            raise Refusal(400, problem)
        return self._form

    async def _bytes(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the file while the parser takes the form apart."""
        size = 0
        async for chunk in self._request.stream():
            try:
                self._parser.write(chunk)
            except FormParserError as problem:
                raise Refusal(400, f"The form cannot be read: {problem}.") from None
            for piece in self._pieces:
                size += len(piece)
                yield piece
            self._pieces.clear()
            if 0 < self._switches.largest_upload < size:
                raise Refusal(413, f"A file may have {self._switches.largest_upload} bytes at most.")

    # -- what the parser calls ---------------------------------------------------------------------------

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _start(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._part = _text(options.get(b"name", b""))
        self._filename = _text(options[b"filename"]) if b"filename" in options else None
        self._text.clear()
        if self._part != "file" or self._filename is None:
            if self._form.name is not None:
                self._late = self._part
        elif self._form.name is not None:
            raise Refusal(400, "The form has more than one file.")
        else:
            self._form.name = self._filename

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._pieces.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > LARGEST_TEXT:
            raise Refusal(413, f"The field “{self._part}” is too long.")

    def _end(self) -> None:
        if self._in_file:
            return
        if self._part == "metadataFile":
            self._form.metadata = bytes(self._text)
        else:
            self._form.fields[self._part] = _text(bytes(self._text))

    @property
    def _in_file(self) -> bool:
        return self._part == "file" and self._filename is not None

    def _finish(self) -> None:
        self._complete = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refusal(400, "The form is not in UTF-8.") from None
