"""How the Portal stand-in reads bodies, and how it checks the fields of an attachment.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import html
import json
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from labfs.sandbox.portal.answers import Refusal
from labfs.sandbox.portal.shelf import LINKS, Shelf

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
TRUE, FALSE = ("true", "t", "y", "yes", "on", "1"), ("false", "f", "n", "no", "off", "0", "0.0")
LONGEST_PART_NAME = 255  # characters that the framework keeps of a file part's name


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _empty(request: Request, shelf: Shelf) -> bool:
    """Tell whether the program sees a body: without a length it sees none."""
    length = request.headers.get("content-length")
    if length is None:
        return not (shelf.switches.proxy_buffers and "transfer-encoding" in request.headers)
    return length == "0"


async def form_of(request: Request, shelf: Shelf) -> FormData:
    """Return the form in the body. Raises Refusal for another kind of body."""
    if _empty(request, shelf):
        return FormData()
    if media_type(request) not in FORMS:
        kind = request.headers.get("content-type", "")
        raise Refusal(415, {"detail": f'Unsupported media type "{kind}" in request.'})
    try:
        return await request.form()
    except HTTPException:
        return FormData()  # the framework takes a broken form for an empty one


async def fields_of(request: Request, shelf: Shelf) -> dict[str, Any]:
    """Return the fields in a body that may be JSON as well as a form."""
    if media_type(request) != "application/json":
        return dict(await form_of(request, shelf))
    if _empty(request, shelf):
        return {}
    try:
        found = json.loads(await request.body())
    except ValueError as problem:
        raise Refusal(400, {"detail": f"JSON parse error - {problem}"}) from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        text = f"Invalid data. Expected a dictionary, but got {kind}."
        raise Refusal(400, {"non_field_errors": [text]})
    return found


def part_name(name: str) -> str:
    """Return the name of a file part as the framework keeps it: no entities, no directory, not too long."""
    name = html.unescape(name).rpartition("\\")[2].strip().rpartition("/")[2]
    if len(name) <= LONGEST_PART_NAME:
        return name
    stem, dot, ending = name.rpartition(".")
    ending = (dot + ending)[:LONGEST_PART_NAME] if stem else ""
    return name[: LONGEST_PART_NAME - len(ending)] + ending


class Wrong(Exception):
    """What is wrong with one field, as a sentence."""


class Fields:
    """Checks the fields of an attachment's form by the rules of the framework for forms."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def read(self, form: FormData, partial: bool) -> tuple[dict[str, Any], dict[str, list[int]]]:
        """Return new values by column, and new links by name. Raises Refusal.

        A form that is not partial counts absent lists as empty and an absent box as not ticked; other absent
        fields are left alone in both.
        """
        checks: dict[str, tuple[str, Callable[[str], Any]]] = {
            "filename": ("filename", self._filename),
            "description": ("description", self._text),
            "s3_resource_deleted": ("s3_deleted", self._box),
            "sequence_map_for": ("material", lambda text: self._number("materials", text) if text else None),
            "owned_by_org": ("organization", lambda text: self._number("organizations", text) if text else None),
            "owned_by_user": ("user", self._user),
        }
        values: dict[str, Any] = {} if partial else {"s3_deleted": False}
        links: dict[str, list[int]] = {}
        problems: dict[str, list[str]] = {}
        if not partial and "owned_by_user" not in form:
            problems["owned_by_user"] = ["This field is required."]
        for field, (column, check) in checks.items():
            text = form.getlist(field)[-1] if field in form else None
            if field == "s3_resource_deleted" and text == "":
                continue
            try:
                if isinstance(text, UploadFile):
                    raise Wrong("Not a valid string.")
                if text is not None:
                    values[column] = check(text)
            except Wrong as problem:
                problems[field] = [str(problem)]
        for name, (table, _) in LINKS.items():
            try:
                if name in form or not partial:
                    links[name] = [self._number(table, str(text)) for text in form.getlist(name)]
            except Wrong as problem:
                problems[name] = [str(problem)]
        if problems:
            raise Refusal(400, problems)
        return values, links

    def _text(self, text: str) -> str:
        if "\0" in text:
            raise Wrong("Null characters are not allowed.")
        return text.strip() if self._shelf.switches.trim_names else text

    def _filename(self, text: str) -> str | None:
        if text and not self._text(text):
            raise Wrong("This field may not be blank.")
        return self._text(text) or None

    def _box(self, text: str) -> bool:
        if text.lower() not in (*TRUE, *FALSE):
            raise Wrong("Must be a valid boolean.")
        return text.lower() in TRUE

    def _number(self, table: str, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise Wrong("Incorrect type. Expected pk value, received str.") from None
        row = self._shelf.find(table, number) if abs(number) < 1 << 63 else None
        if row is None or (table == "attachments" and row["removed"]):
            raise Wrong(f'Invalid pk "{text}" - object does not exist.')
        return number

    def _user(self, text: str) -> str:
        if not text:
            raise Wrong("This field may not be null.")
        try:
            user = str(uuid.UUID(text))
        except ValueError:
            raise Wrong(f"'{text}' is not a valid UUID.") from None
        if self._shelf.find("users", user) is None:
            raise Wrong(f'Invalid pk "{text}" - object does not exist.')
        return user
