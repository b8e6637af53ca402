"""What Clarity says: XML → elements → entries, and the few elements that requests carry.

Facts used here, with their sources: only roots and a few shared elements have a namespace, and prefixes
are the server's choice (schemas), so elements are told by their local names. Addresses in answers carry
the server's own idea of its host, which can be wrong (seen at real sites), so only ids are taken from them.

A step run and a submitted sample are named `LIMSID NAME`, since neither names are unique; a file in a
placeholder `LIMSID_NAME`, which is the vendor's own rule for files that its automation attaches.

Tests: backends/test_clarity_backend, mount/test_clarity_mount.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree as ET

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from labfs.backend import (
    Accept,
    Entry,
    takes,
)
from labfs.errors import Malformed
from labfs.http import texts
from labfs.http.client import Answer

log = logging.getLogger(__name__)
Node = ET.Element

RI = "http://genologics.com/ri"
DEEPEST = 40  # elements inside one another in a description
LONGEST_REASON = 500  # letters of a service's own sentence
_ID = re.compile(r"[A-Za-z0-9-]{1,100}")
# Output types of artifacts that hold a file (attach-file guide, artifact reference); servers differ in the
# name for a placeholder that all inputs share.
FILE_TYPES = ("ResultFile", "SharedResultFile", "SearchResultFile", "Image")
# LIMS IDs of such artifacts, new and old, at the start of a name.
PLACEHOLDER = re.compile(r"(92-[0-9]+|[A-Z]{1,4}[0-9]+A[0-9]+RP[0-9]+)_(.+)", re.DOTALL)

FILES = takes(Accept.FILE)
BY_WORK = "Projects, samples and steps are made by lab work in Clarity"
RIGHTS = (
    "Ask the LIMS administrator whether its role has the permission to sign in to the API (403); a change can take"
    " 20 minutes to act."
)
READ_ONLY_ROOT = f"{BY_WORK}, not here."
READ_ONLY_PROJECT = f"{BY_WORK}; files are saved in _project, in a sample or in a step."


# -- things → entries ---------------------------------------------------------------------------------------


def project(node: Node) -> Entry:
    limsid = limsid_of(node)
    return Entry(
        id=f"projects/{limsid}",
        name=text(node, "name") or limsid,
        is_dir=True,
        age=age_of(limsid),
        label=limsid,
        read_only=READ_ONLY_PROJECT,
    )


def own_files(project: str) -> Entry:
    """Return the directory of a project's own files."""
    return Entry(id=f"projects/{project}/self", name="_project", is_dir=True, label=project, takes=FILES)


def sample(node: Node) -> Entry:
    limsid, name = limsid_of(node), text(node, "name")
    return Entry(
        id=f"samples/{limsid}",
        name=f"{limsid} {name}" if name else limsid,
        is_dir=True,
        age=age_of(limsid),
        label=limsid,
        modified_ns=_day_ns(text(node, "date-received")),
        takes=FILES,
    )


def step(limsid: str, kind: str) -> Entry:
    return Entry(
        id=f"processes/{limsid}",
        name=f"{limsid} {kind}" if kind else limsid,
        is_dir=True,
        age=age_of(limsid),
        label=limsid,
        takes=FILES,
    )


def file(record: Node) -> Entry:
    limsid, (kind, owner) = limsid_of(record), owner_of(record)
    name = text(record, "original-name") or bare(text(record, "original-location")) or limsid
    return Entry(
        id=f"files/{limsid}",
        name=f"{owner}_{name}" if kind == "artifacts" else name,
        is_dir=False,
        age=age_of(limsid),
        label=limsid,
    )


def bare(original: str) -> str:
    """Return the last part of a path that was made on any system."""
    return re.split(r"[/\\]", original)[-1]


def owner_of(record: Node) -> tuple[str, str]:
    """Return kind and LIMS ID of what a file is attached to; two empty texts where that is not told."""
    path = urlsplit(text(record, "attached-to").strip()).path
    found = re.search(r"/(projects|samples|processes|steps|artifacts)/([^/]+)$", path)
    if found is None:
        return "", ""
    return ("processes" if found[1] == "steps" else found[1]), checked(found[2])


def file_links(node: Node) -> dict[str, Node]:
    """Return the file links of a thing by id; some servers put the whole record in place of a link."""
    return {limsid: link for link in children(node, "file") for limsid in ids_of([link])}


def is_record(node: Node) -> bool:
    return bool(text(node, "original-location"))


def inputs(process: Node) -> list[str]:
    return _mapped(process, "input", ())


def outputs(process: Node) -> list[str]:
    """Return the ids of the placeholders of a step; a shared one repeats for every input."""
    return _mapped(process, "output", FILE_TYPES)


def _mapped(process: Node, side: str, types: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    for pair in children(process, "input-output-map"):
        for node in children(pair, side):
            # The attribute is `type` in a step's details and `output-type` in a process (schemas).
            if not types or (node.get("output-type") or node.get("type")) in types:
                found.update(dict.fromkeys(ids_of([node])))
    return list(found)


def type_of(process: Node) -> str:
    """Return the name of a step's type; its configuration has it in what was put together from a step."""
    return (text(process, "type") or text(process, "configuration")).strip()


def placeholder(artifact: Node) -> dict[str, Any]:
    """Return what a person wants to know before they save into a placeholder."""
    limsid = limsid_of(artifact)
    name = text(artifact, "name")
    held = list(file_links(artifact))
    return {"limsid": limsid, "name": name, "file": held[0] if held else None, "save as": f"{limsid}_{name}"}


def as_dict(node: Node) -> dict[str, Any]:
    found = as_data(node)
    return found if isinstance(found, dict) else {"value": found}


def is_completed(step: Node) -> bool:
    return state_of(step).casefold() == "completed" or bool(text(step, "date-completed").strip())


def state_of(step: Node) -> str:
    return step.get("current-state") or ""


def age_of(limsid: str) -> int:
    number = re.search(r"[0-9]{1,18}$", limsid)
    return int(number[0]) if number else 0


def _day_ns(day: str) -> int | None:
    try:
        return int(datetime.strptime(day.strip(), "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 10**9
    except (ValueError, OverflowError):
        return None


# -- elements ----------------------------------------------------------------------------------------------


def parsed(answer: Answer, root: str) -> Node:
    """Return an answer's root element. Raises Malformed for another one, and for XML that is an attack."""
    try:
        found = _tree(answer)
    except (DefusedXmlException, ET.ParseError, ValueError, LookupError, RecursionError) as error:
        page = "html" in answer.headers.get("content-type", "") or b"<html" in answer.body[:1000].lower()
        what = "a web page" if page else "something that is not plain XML"
        raise Malformed(f"{answer.what} answered with {what}; is the site's url right?") from error
    if local(found) != root:
        raise Malformed(f"{answer.what} answered with “{local(found)[:40]}” instead of “{root}”.")
    return found


def _tree(answer: Answer) -> Node:
    """Parse an answer, also one with bytes or characters that no XML can hold: they matter where they are alone."""
    try:
        found: Node = fromstring(answer.body, forbid_dtd=True)
    except (ET.ParseError, ValueError, LookupError) as error:
        if isinstance(error, DefusedXmlException):
            raise
        found = fromstring(texts.xml_of(answer.body, answer.headers), forbid_dtd=True)
        for node in found.iter():
            node.text = texts.meant(node.text or "")
            node.attrib = {name: texts.meant(value) for name, value in node.attrib.items()}
    return found


def local(node: Node) -> str:
    """Return an element's name without its namespace; "" for what is no element."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def children(node: Node, name: str) -> list[Node]:
    return [child for child in node if local(child) == name]


def text(node: Node, name: str) -> str:
    """Return the text of the first child of that name as it is, blanks at its ends too: it may be a name."""
    return next((child.text or "" for child in children(node, name)), "")


def limsid_of(node: Node) -> str:
    """Return the LIMS ID of a link or a thing. Raises ValueError for what cannot be one."""
    return checked(node.get("limsid") or urlsplit(node.get("uri") or "").path.rpartition("/")[2])


def checked(limsid: str) -> str:
    if not _ID.fullmatch(limsid):
        raise ValueError("an id that is none")
    return quote(limsid, safe="")


def ids_of(nodes: Iterable[Node]) -> Iterator[str]:
    """Yield the ids of links, without those that make no sense."""
    for node in nodes:
        try:
            yield limsid_of(node)
        except ValueError:
            log.warning("A link without an id was listed.")


def record(attached_to: str, name: str, location: str = "") -> Node:
    """Return a file's record as requests carry it."""
    root = ET.Element(f"{{{RI}/file}}file")
    ET.SubElement(root, "attached-to").text = attached_to
    if location:
        ET.SubElement(root, "content-location").text = location
    ET.SubElement(root, "original-location").text = name
    return root


def as_data(node: Node, depth: int = 0) -> Any:
    """Return an element as JSON-able data: attributes and children by name, those of one name as a list."""
    if not len(node) and not node.attrib:
        return node.text or ""
    found: dict[str, Any] = dict(node.attrib)
    if (node.text or "").strip():
        found["value"] = node.text
    if depth < DEEPEST:
        for name in dict.fromkeys(local(child) for child in node):
            values = [as_data(child, depth + 1) for child in children(node, name)]
            found[name] = values[0] if len(values) == 1 else values
    return found


def explain(answer: Answer) -> str:
    """Return the service's own sentence from an error answer; those about who asks have none."""
    if answer.status == 403:
        return f"{answer.what}: this login may not do that"
    if 300 <= answer.status < 400:
        return f"{answer.what} leads to another address; is the site's url right (https, and no port)?"
    try:
        root = parsed(answer, "exception")
    except Malformed:
        return ""
    sentences = [text(root, "message").strip(), text(root, "suggested-actions").strip()]
    said = " ".join(sentence for sentence in sentences if sentence)
    return f"{answer.what}: {said[:LONGEST_REASON]}" if said else ""
