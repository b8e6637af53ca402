"""File fields: one slot a field, event and instance; and how bytes of any document leave the server.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from labfs.sandbox.redcap.answers import Ask, Refusal
from labfs.sandbox.redcap.design import Field
from labfs.sandbox.redcap.entry import start_form
from labfs.sandbox.redcap.records import FULL
from labfs.sandbox.redcap.shelf import Caller, Shelf, Switches
from labfs.sandbox.store import MIB, Row

# Extensions that are refused by default.
BLOCKED = {
    "ade", "adp", "apk", "appx", "appxbundle", "bat", "cab", "chm", "cmd", "com", "cpl", "diagcab", "diagcfg",
    "diagpack", "dll", "dmg", "ex", "exe", "hta", "img", "ins", "iso", "isp", "jar", "jnlp", "js", "jse", "lib",
    "lnk", "mde", "msc", "msi", "msix", "msixbundle", "msp", "mst", "nsh", "php", "pif", "ps1", "scr", "sct", "shb",
    "sys", "vb", "vbe", "vbs", "vhd", "vxd", "wsc", "wsf", "wsh", "xll",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one file may be."""

    record: str
    event: int
    instance: int
    field: Field


class Files:
    """The calls with `content=file`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def export(self, caller: Caller, ask: Ask) -> Response:
        slot = self._slot(caller, ask)
        if slot.field.identifier and caller.rights["data_export"] != FULL:
            raise Refusal(403, "You do not have the data export rights to download a file from an identifier field")
        document = self._held(caller, slot)
        if document is None:
            raise Refusal(400, "There is no file to download for this record")
        action = f"Download uploaded document (API) {slot.record}"
        self._shelf.note(caller, "export", action, f"{slot.field.name} = '{document['id']}'", slot.record)
        return download(self._shelf, document)

    async def upload(self, caller: Caller, ask: Ask) -> None:
        slot = self._slot(caller, ask, creates=self._shelf.switches.missing_record == "create")
        if slot.field.signature:
            raise Refusal(400, f"The field '{slot.field.name}' is a signature field: files cannot be imported into it")
        self._refuse_locked(caller, slot)
        part, name = file_of(self._shelf.switches, ask, self._shelf.switches.largest_upload)
        blob, size, _ = await self._shelf.store.receive(chunks(part))
        with self._shelf.store.transaction():
            old = self._held(caller, slot)
            keep = old["id"] if old is not None and not self._shelf.switches.new_id_per_upload else None
            kind = mime_of(self._shelf.switches, name, part)
            number = self._shelf.add_document(caller.id, name, kind, size, blob, keep)
            self._fill(caller, slot, number)

    def _fill(self, caller: Caller, slot: Slot, number: int) -> None:
        shelf, form = self._shelf, slot.field.form
        if shelf.record(caller, slot.record) is None:
            shelf.add_record(caller.id, slot.record, caller.dag)
        key = caller.design.key
        whole = caller.design.whole_repeats(slot.event)
        shelf.set_value(caller.id, slot.record, slot.event, slot.instance if whole else 1, key, slot.record)
        shelf.set_value(caller.id, slot.record, slot.event, slot.instance, slot.field.name, str(number))
        start_form(shelf, caller.id, (slot.record, slot.event, slot.instance), form)
        self._note(caller, slot, str(number))

    def delete(self, caller: Caller, ask: Ask) -> None:
        slot = self._slot(caller, ask)
        self._refuse_locked(caller, slot)
        if self._held(caller, slot) is None:
            if self._shelf.switches.delete_empty == "refuse":
                raise Refusal(400, "There is no file to delete for this record")
            return
        self._shelf.set_value(caller.id, slot.record, slot.event, slot.instance, slot.field.name, "")
        self._note(caller, slot, "")

    def _note(self, caller: Caller, slot: Slot, value: str) -> None:
        if self._shelf.switches.upload_modifies:
            self._shelf.touch(caller.id, slot.record)
        details = f"{slot.field.name} = '{value}'"
        if caller.design.repeating and slot.instance > 1:
            details = f"[instance = {slot.instance}], {details}"
        self._shelf.note(caller, "record_edit", f"Update record (API) {slot.record}", details, slot.record)

    def _held(self, caller: Caller, slot: Slot) -> Row | None:
        value = self._shelf.value(caller.id, slot.record, slot.event, slot.instance, slot.field.name)
        return self._shelf.document(int(value)) if value else None

    def _refuse_locked(self, caller: Caller, slot: Slot) -> None:
        record = self._shelf.record(caller, slot.record)
        if record is not None and record["locked"]:
            raise Refusal(self._shelf.switches.locked_status, f'The record "{slot.record}" is locked')

    def _slot(self, caller: Caller, ask: Ask, creates: bool = False) -> Slot:
        """Return what the form points at. Raises Refusal."""
        design = caller.design
        name, record = ask.get("field"), ask.get("record")
        field = design.fields.get(name)
        if field is None or field.kind != "file":
            raise Refusal(400, f"The field '{name}' does not exist or is not a 'file' field")
        if not record or (not creates and self._shelf.record(caller, record) is None):
            raise Refusal(400, self._shelf.switches.unknown_record_text.format(record=record))
        if creates and self._shelf.record(caller, record) is None:
            self._refuse_foreign(caller, record)
        event = design.events[0]
        if design.longitudinal:
            found = design.event(ask.get("event"))
            if found is None:
                raise Refusal(400, f"The event '{ask.get('event')}' does not exist in this longitudinal project")
            event = found
        if not design.has(event["id"], field.form):
            raise Refusal(400, f"The field '{name}' is not on a form of the event '{event['unique_name']}'")
        instance = ask.number("repeat_instance")
        if instance == 0:
            raise Refusal(400, 'The value of the parameter "repeat_instance" is not valid')
        repeats = design.repeats(event["id"], field.form)
        return Slot(record, event["id"], instance or 1 if repeats else 1, field)

    def _refuse_foreign(self, caller: Caller, record: str) -> None:
        """A record of another group is there, although the caller does not see it."""
        sql = "SELECT count(*) FROM redcap_records WHERE project = ? AND name = ?"
        if self._shelf.store.count(sql, caller.id, record):
            raise Refusal(400, self._shelf.switches.unknown_record_text.format(record=record))


# -- bytes in --------------------------------------------------------------------------------------------


def file_of(switches: Switches, ask: Ask, largest: int) -> tuple[UploadFile, str]:
    """Return the file of a form and the name it will have. Raises Refusal."""
    part = ask.file
    if part is None or not part.filename:
        raise Refusal(400, "No valid file was uploaded")
    name = re.split(r"[/\\]", part.filename)[-1] if switches.upload_basename else part.filename
    if name.rpartition(".")[2].lower() in BLOCKED:
        raise Refusal(400, switches.blocked_text)
    if (part.size or 0) > largest:
        raise Refusal(400, switches.too_large_text)
    return part, name


async def chunks(part: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await part.read(MIB):
        yield chunk


def mime_of(switches: Switches, name: str, part: UploadFile | None = None) -> str:
    if switches.mime_from == "part" and part is not None and part.content_type:
        return part.content_type.partition(";")[0]
    return type_of(name)


def type_of(name: str) -> str:
    """Return the type that goes with a name's extension."""
    kind, coding = mimetypes.guess_type(name.replace("/", "_"))
    return "application/gzip" if coding == "gzip" else kind or "application/octet-stream"


# -- bytes out -------------------------------------------------------------------------------------------


def download(shelf: Shelf, document: Row) -> Response:
    """Answer a document: its name rides in the Content-Type. A range that is asked for is ignored."""
    path, switches = shelf.store.path(document["blob"]), shelf.switches
    name = _in_header(document["name"], switches.name_coding)
    kind = f'{document["type"]}; name="{name}"'
    if document["type"].startswith("text/"):
        kind += ";charset=UTF-8"
    response = StreamingResponse(_read(path))
    response.raw_headers = [(b"content-type", kind.encode("latin-1"))]
    if switches.disposition:
        response.raw_headers.append((b"content-disposition", f'attachment; filename="{name}"'.encode("latin-1")))
    if switches.length_sent:
        response.raw_headers.append((b"content-length", str(path.stat().st_size).encode()))
    return response


def _in_header(name: str, coding: str) -> str:
    """Return a name as text of bytes; PHP lets no control character into a header."""
    name = re.sub(r"[\x00-\x1f\x7f]", " ", name)
    if coding == "percent":
        return quote(name, safe=" !#$&'()+,;=@[]{}~")
    return name.encode(coding, "replace").decode("latin-1")


async def _read(path: Path) -> AsyncIterator[bytes]:
    # Read where it is called: the bytes are in the page cache, and a thread for each MiB costs more.
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(MIB):
            yield chunk
