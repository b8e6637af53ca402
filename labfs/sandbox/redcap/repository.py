"""The File Repository of a project: folders and documents that belong to no record.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import Response

from labfs.sandbox.redcap.answers import Ask, Refusal, Writer
from labfs.sandbox.redcap.files import chunks, download, file_of, mime_of
from labfs.sandbox.redcap.shelf import Caller, Shelf
from labfs.sandbox.store import Row

LONGEST_NAME = 150
RESTRICTED_SINCE = (16, 0, 8)  # the version whose lists tell of restrictions


class Repository:
    """The calls with `content=fileRepository`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def list(self, caller: Caller, ask: Ask, writer: Writer) -> Response:
        """Answer one level: folders, then documents."""
        folder = self._folder(caller, ask)
        tells = tuple(map(int, self._shelf.switches.version.split("."))) >= RESTRICTED_SINCE
        rows: list[dict[str, Any]] = []
        sql = "SELECT * FROM redcap_folders WHERE project = ? AND parent = ? ORDER BY name, id"
        for row in self._shelf.store.all(sql, caller.id, folder):
            if not self._visible(caller, row):
                continue
            shown: dict[str, Any] = {"folder_id": row["id"], "name": row["name"]}
            if tells and row["role"]:
                shown["role"] = f"U-{row['role']}"
            if tells and row["dag"]:
                shown["dag"] = row["dag"]
            rows.append(shown)
        sql = (
            "SELECT d.id, d.name FROM redcap_repository r JOIN redcap_documents d ON d.id = r.document"
            " WHERE r.project = ? AND r.folder = ? AND r.deleted IS NULL ORDER BY d.name, d.id"
        )
        rows += [{"doc_id": row["id"], "name": row["name"]} for row in self._shelf.store.all(sql, caller.id, folder)]
        columns = ["folder_id", "doc_id", "name", *(["role", "dag"] if tells else [])]
        return writer.table(rows, "items", columns)

    def export(self, caller: Caller, ask: Ask) -> Response:
        document = self._document(caller, ask)
        self._note(caller, "export", f"Download file from File Repository (API) {document['name']}", document["id"])
        return download(self._shelf, document)

    async def upload(self, caller: Caller, ask: Ask) -> None:
        folder, switches = self._folder(caller, ask), self._shelf.switches
        part, name = file_of(switches, ask, switches.largest_repository_upload)
        blob, size, _ = await self._shelf.store.receive(chunks(part))
        with self._shelf.store.transaction():
            number = self._shelf.add_document(caller.id, name, mime_of(switches, name, part), size, blob)
            self._shelf.store.run("INSERT INTO redcap_repository VALUES (?, ?, ?, NULL)", number, caller.id, folder)
            self._note(caller, "manage", f"Upload file to File Repository (API) {name}", number)

    def delete(self, caller: Caller, ask: Ask) -> None:
        """Put a document into the recycle bin, which no call reaches."""
        document = self._document(caller, ask)
        sql = "UPDATE redcap_repository SET deleted = ? WHERE document = ?"
        self._shelf.store.run(sql, time.time(), document["id"])
        self._note(caller, "manage", f"Delete file from File Repository (API) {document['name']}", document["id"])

    def make_folder(self, caller: Caller, ask: Ask, writer: Writer) -> Response:
        parent, name = self._folder(caller, ask), ask.get("name").strip()
        if not name or len(name) > LONGEST_NAME:
            raise Refusal(400, f"The folder name must have between 1 and {LONGEST_NAME} characters")
        dag, role = ask.number("dag_id"), ask.number("role_id")
        group = next((g["unique"] for g in self._shelf.groups(caller.project) if g["id"] == dag), "")
        if dag is not None and not group:
            raise Refusal(400, 'The value of the parameter "dag_id" is not valid')
        number = self._shelf.store.run(
            "INSERT INTO redcap_folders (project, parent, name, dag, role) VALUES (?, ?, ?, ?, ?)",
            caller.id, parent, name, group, role or 0,
        )  # fmt: skip
        self._note(caller, "manage", f"Create folder in File Repository (API) {name}", number)
        return writer.table([{"folder_id": number}], "items")

    def _note(self, caller: Caller, kind: str, action: str, number: int) -> None:
        self._shelf.note(caller, kind, action, f"id = {number}")

    def _visible(self, caller: Caller, folder: Row) -> bool:
        if folder["system"] and not self._shelf.switches.system_folders:
            return False
        role = caller.rights["role"]
        return not (caller.dag and folder["dag"] not in ("", caller.dag)) and folder["role"] in (0, role)

    def _folder(self, caller: Caller, ask: Ask) -> int:
        """Return the number of the folder in question, 0 for the uppermost. Raises Refusal."""
        text = ask.get("folder_id").strip()
        if not text:
            return 0
        sql = "SELECT * FROM redcap_folders WHERE project = ? AND id = ?"
        number = int(text) if text.isascii() and text.isdigit() else -1
        row = self._shelf.store.one(sql, caller.id, number)
        inner = row
        while inner is not None and self._visible(caller, inner):
            if not inner["parent"]:
                return number
            inner = self._shelf.store.one(sql, caller.id, inner["parent"])
        raise Refusal(
            400,
            f"The File Repository folder folder_id={text} does not exist or else you do not have permission to that"
            " folder because it is DAG-restricted or Role-restricted.",
        )

    def _document(self, caller: Caller, ask: Ask) -> Row:
        """Return the document in question. Raises Refusal."""
        number = ask.number("doc_id")
        row = self._shelf.store.one(
            "SELECT * FROM redcap_repository WHERE project = ? AND document = ? AND deleted IS NULL", caller.id, number
        )
        document = self._shelf.document(row["document"]) if row and self._reachable(caller, row["folder"]) else None
        if document is None:
            text = f"The File Repository file doc_id={ask.get('doc_id')} does not exist or else you do not have"
            raise Refusal(400, f"{text} permission to that file because it is DAG-restricted or Role-restricted.")
        return document

    def _reachable(self, caller: Caller, folder: int) -> bool:
        while folder:
            row = self._shelf.store.one("SELECT * FROM redcap_folders WHERE id = ?", folder)
            if row is None or not self._visible(caller, row):
                return False
            folder = row["parent"]
        return True
