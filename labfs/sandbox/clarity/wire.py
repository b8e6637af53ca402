"""What the Clarity stand-in speaks: XML with the vendor's prefixes, and exceptions.

Only roots, `file:file`, `udf:*` and the members of a batch are in a namespace; other children are not.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree as ET

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

Node = ET.Element

RI = "http://genologics.com/ri"
NAMESPACES = {
    "ver": f"{RI}/version", "ri": RI, "exc": f"{RI}/exception", "file": f"{RI}/file", "prj": f"{RI}/project",
    "smp": f"{RI}/sample", "art": f"{RI}/artifact", "prc": f"{RI}/process", "stp": f"{RI}/step",
    "udf": f"{RI}/userdefined", "prop": f"{RI}/property", "ptp": f"{RI}/processtype", "res": f"{RI}/researcher",
    "con": f"{RI}/container", "ctp": f"{RI}/containertype", "ctrltp": f"{RI}/controltype", "lab": f"{RI}/lab",
    "artgr": f"{RI}/artifactgroup", "rtp": f"{RI}/reagenttype", "kit": f"{RI}/reagentkit", "lot": f"{RI}/reagentlot",
    "inst": f"{RI}/instrument", "perm": f"{RI}/permissions", "role": f"{RI}/role",
    "protcnf": f"{RI}/protocolconfiguration", "wkfcnf": f"{RI}/workflowconfiguration", "cnf": f"{RI}/configuration",
}  # fmt: skip
for _prefix, _uri in NAMESPACES.items():
    ET.register_namespace(_prefix, _uri)  # one public client knows errors by the literal prefix

_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def qualified(tag: str) -> str:
    """Return the tag as the parser names it: `file:file` becomes `{…/file}file`."""
    prefix, _, name = tag.rpartition(":")
    return f"{{{NAMESPACES[prefix]}}}{name}" if prefix else name


def node(
    tag: str, attributes: Mapping[str, str] | None = None, text: str | None = None, children: Iterable[Node] = ()
) -> Node:
    made = ET.Element(qualified(tag), dict(attributes or {}))
    made.text = text
    made.extend(children)
    return made


def answer(root: Node, status: int = 200) -> Response:
    body = _HEAD + ET.tostring(root, encoding="unicode")
    return Response(body.encode(), status, {"content-type": "application/xml"})


def error(status: int, message: str = "An unexpected error occurred.", advice: str = "") -> Response:
    """Return an exception; the two statuses about who asks have no body."""
    if status in (401, 403):
        return Response(status_code=status)
    children = [node("message", text=_NOT_XML.sub("\ufffd", message))]
    if advice:
        children.append(node("suggested-actions", text=advice))
    return answer(node("exc:exception", {"code": str(status)}, children=children), status)


class Refusal(Exception):
    def __init__(self, status: int, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.advice = status, message, advice


async def refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return error(refusal.status, refusal.message, refusal.advice)


async def unknown(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    if problem.status_code != 404:
        return error(problem.status_code, f"{problem.detail}: {request.method} {request.url.path}")
    path = request.url.path.removeprefix("/api")
    return error(404, f"Could not find resource for relative : {path} of full path: {request.url}")


async def xml_of(request: Request, tag: str, wrong_type: int) -> Node:
    """Read a body whose root must be `tag`; prefixes and the order of children are the client's choice."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() not in ("application/xml", "text/xml"):
        raise Refusal(wrong_type, "Cannot consume content type")
    body = await request.body()
    try:
        if b"<!DOCTYPE" in body:
            raise ET.ParseError("a document type is not allowed")
        root = ET.fromstring(body)  # noqa: S314, without a document type there are no entities
    except ET.ParseError as problem:
        raise Refusal(400, f"The body is not valid XML: {problem}") from None
    if root.tag != qualified(tag):
        raise Refusal(400, f"Unexpected element {root.tag}; expected {qualified(tag)}")
    return root


def text_of(root: Node, name: str) -> str:
    """Return the text of a child as it is, blanks at its ends too: it may be a name."""
    return root.findtext(name) or ""
