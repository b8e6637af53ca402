"""REDCap's one address: forms in, rows or bytes out, and what its refusals mean.

Facts used here, with their sources: every call is a POST of a form that carries the token of one project;
errors come as a sentence in the format that was asked for, with 400 for nearly everything (REDCapR's and
redcapAPI's tests); a status of 200 is no proof, since a server under load answers with nothing, one that ran
out of memory with a web page, and so does a login proxy (redcapAPI's news, issue 280); the name of a file
rides in the Content-Type of its bytes (PyCap, PHPCap).

Tests: backends/test_redcap_backend, backends/test_redcap_oddities.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from labfs.backend import Buffer, Sink, Source
from labfs.errors import (
    Denied,
    Enough,
    Invalid,
    LabfsError,
    Malformed,
    NoSpace,
    NotFound,
    NotPermitted,
    TooLarge,
    Unanswered,
    Unavailable,
)
from labfs.http.client import Answer, Client, Patience, Request
from labfs.http.forms import Form

PATH = "api/"
BLANKS = b"\xef\xbb\xbf \t\r\n"  # before what an answer says, a byte order mark among them
NO_RIGHT = "You do not have permissions to use the API"  # said of an unknown token as well
LONGEST_REASON = 400  # characters of a server's sentence that are shown
T = TypeVar("T")
Secret = Callable[[], str]

GONE = "labfs refresh PATH asks for the record anew."

# What is in a refusal → what it means, and what to do. The first that fits counts: statuses alone do not tell these
# apart.
MEANINGS: tuple[tuple[str, type[LabfsError] | None, str], ...] = (
    (f"{NO_RIGHT}|has banned", None, ""),  # as the status says; its sentence goes on with what to do
    (r"is not a 'file' field", NotFound, GONE),
    (r"there is no file", NotFound, GONE),
    (r"does not exist", NotFound, GONE),
    (r"\block(ed)?\b", NotPermitted, "Who may unlock it in REDCap can make it take files again."),
    (r"\bextension", NotPermitted, "Give it another extension, or pack it: a .zip is taken."),
    (r"\bsignature", NotPermitted, "Signatures are given on REDCap's own pages."),
    (r"\bquota\b|storage limit|disk is full", NoSpace, "The administrator of the server can make room."),
    (
        r"too large|maximum (file|upload)|file size|upload_max|post_max|larger than",
        TooLarge,
        "A smaller file may do, or the administrator of the server raises the limit.",
    ),
)


class TooMuch(Malformed):
    """The server ran out of memory over an export: less can be asked for at a time."""

    remedy = "The administrator of the server can give it more memory."


def site_url(url: str) -> str:
    """Return the address that `PATH` is relative to; people write it with and without `api`."""
    bare = url.rstrip("/")
    return bare.removesuffix("/api") + "/"


class Wire:
    """Requests about one site's projects, each by its alias, with its own token."""

    def __init__(self, client: Client, tokens: Mapping[str, Secret]) -> None:
        self.client = client
        self._tokens = tokens

    def where(self, alias: str) -> str:
        """Return what a sentence about a project begins with."""
        return f"{self.client.site}, “{alias}”"

    def form(self, alias: str, fields: Mapping[str, Any]) -> dict[str, str]:
        """Return the fields of a request as PHP takes them; what is None is left out."""
        found = {"token": self._tokens[alias](), "returnFormat": "json"}
        for name, value in fields.items():
            if isinstance(value, str):
                found[name] = value
            elif value is not None:
                found |= {f"{name}[{index}]": str(item) for index, item in enumerate(value)}
        return found

    async def ask(self, alias: str, content: str, **fields: Any) -> Any:
        """Return the JSON of a question."""
        form = self.form(alias, {"content": content, "format": "json", **fields})
        async with self._meant(alias):
            return (await self.client.call(Request("POST", PATH, form=form, check=_is_json))).json()

    async def rows(self, alias: str, content: str, **fields: Any) -> list[Any]:
        found = await self.ask(alias, content, **fields)
        if not isinstance(found, list):
            raise Malformed(f"{self.where(alias)}: the list of {content}s is none.")
        return found

    async def change(self, alias: str, content: str, **fields: Any) -> Answer:
        """Carry out a change without a body. Raises Unanswered where nobody knows whether it was."""
        form = self.form(alias, {"content": content, "format": "json", **fields})
        async with self._meant(alias):
            return await self.client.call(
                Request("POST", PATH, form=form, patience=Patience.PERSISTENT, repeatable=False, check=_is_no_page)
            )

    async def send(self, alias: str, name: str, source: Source, **fields: Any) -> None:
        """Import a file. Raises Unanswered where nobody knows whether the server has it."""
        sent = self.form(alias, {"action": "import", **fields})
        form = Form(list(sent.items()), "file", name, "application/octet-stream", source)
        async with self._meant(alias):
            request = Request(
                "POST",
                PATH,
                source=form,
                headers={"Content-Type": form.content_type},
                patience=Patience.PERSISTENT,
                repeatable=False,
                check=_is_no_page,
            )
            await self.client.call(request)

    async def pour(self, alias: str, sink: Sink, **fields: Any) -> None:
        """Send all bytes of a file to `sink`."""
        form = self.form(alias, {"action": "export", **fields})
        async with self._meant(alias):
            await self.client.pour_own(PATH, sink, form=form, check=partial(_is_file, self.where(alias)))

    async def length(self, alias: str, **fields: Any) -> int:
        """Return how many bytes a file has: as announced, and where nothing is announced by counting them."""
        tally = Tally(whole=False)
        with suppress(Enough):
            await self.pour(alias, tally, **fields)
        return tally.size

    async def holds(self, alias: str, source: Source, **fields: Any) -> bool:
        """Tell whether a file there has exactly these bytes, by reading it."""
        tally = Tally(whole=True)
        try:
            await self.pour(alias, tally, **fields)
        except NotFound:
            return False
        return tally.size == source.size and tally.md5() == await trio.to_thread.run_sync(source.md5)

    @asynccontextmanager
    async def _meant(self, alias: str) -> AsyncIterator[None]:
        """Say what a refusal means, and of which project it is."""
        where = self.where(alias)
        try:
            yield
        except NotFound as error:
            raise Malformed(f"{where}: there is no API at the site's url; is it right?") from error
        except (Invalid, Denied) as error:
            text = error.said
            kind, remedy = next(
                ((kind, remedy) for words, kind, remedy in MEANINGS if re.search(words, text, re.IGNORECASE)),
                (None, error.remedy),
            )
            raise (kind or type(error))(f"{where}: {text}").advised(remedy) from error


class Tally:
    """A sink that keeps no bytes: it counts them, all if `whole`, else only where no length is announced."""

    def __init__(self, *, whole: bool) -> None:
        self.size = 0
        self.received = 0
        self._whole = whole
        self.begin(None)

    def begin(self, size: int | None) -> None:
        self._digest = hashlib.md5(usedforsecurity=False)
        self.size = 0
        if size is not None and not self._whole:
            self.size = size
            raise Enough("Only the length was wanted.")

    def write(self, data: Buffer) -> None:
        self._digest.update(data)
        self.size += len(data)
        self.received = max(self.received, self.size)

    def md5(self) -> bytes:
        return self._digest.digest()


class Rounds(Generic[T]):
    """One question at a time, its answer shared by all who asked before it was put and by nobody after."""

    def __init__(self, put: Callable[[Sequence[str]], Awaitable[T]]) -> None:
        self._put = put
        self._next: _Round[T] | None = None
        self._one = trio.Lock()

    async def answer(self, about: str) -> T:
        """Return the answer of a question that starts from now on and covers `about`."""
        mine = self._next = self._next or _Round()
        mine.about[about] = None
        async with self._one:
            if not mine.over:
                if self._next is mine:
                    self._next = None  # who comes now must not be content with this one
                await mine.run(self._put)
        return mine.outcome()


class _Round(Generic[T]):
    def __init__(self) -> None:
        self.about: dict[str, None] = {}
        self.over = False
        self._answers: list[T] = []
        self._error: LabfsError | None = None

    async def run(self, put: Callable[[Sequence[str]], Awaitable[T]]) -> None:
        # Whoever is cancelled here leaves the round to the next who waits for it.
        try:
            self._answers.append(await put(list(self.about)))
        except LabfsError as error:
            self._error = error
        self.over = True

    def outcome(self) -> T:
        if self._error is not None:
            raise type(self._error)(str(self._error)) from self._error
        return self._answers[0]


# -- what an answer is -----------------------------------------------------------------------------------


def _is_json(answer: Answer) -> None:
    body = answer.body.lstrip(BLANKS)
    if not body:
        raise Unavailable(f"{answer.what} answered with nothing, as REDCap does under load.")
    if body[:1] == b"<":
        if b"ran out of server memory" in body:
            raise TooMuch(f"{answer.what}: the server ran out of memory over this export.")
        raise Unavailable(f"{answer.what} answered with a web page; is it under maintenance, or the site's url wrong?")


def _is_no_page(answer: Answer) -> None:
    if answer.body.lstrip(BLANKS)[:1] == b"<":
        raise Unanswered(f"{answer.what} answered with a web page; is it under maintenance?")


def _is_file(what: str, headers: Mapping[str, str]) -> None:
    """Raises Unavailable for what is no file: an error, a page, or nothing at all, with a status of 200."""
    named = re.search(r";\s*name\s*=", headers.get("content-type", ""), re.IGNORECASE)
    if not named and "filename" not in headers.get("content-disposition", ""):
        raise Unavailable(f"{what}: the server sent something that is no file; it may be under load or maintenance.")


def is_own(headers: Mapping[str, str], said: str) -> bool:
    """Whether a 401 is the server's: each of its errors has a message."""
    return bool(said)


def explain(tokens: Iterable[Secret], answer: Answer, *, renewal: str = "") -> str:
    """Return the server's own sentence, free of tokens; of an unknown one also where another comes from."""
    text = _sentence(answer)
    if answer.status == 403 and text.endswith(NO_RIGHT):
        text = f"{text}. The token is not known, or its user has no API right. {renewal}".rstrip()
    for token in tokens:
        with suppress(LabfsError):
            text = text.replace(token(), "…")
    return text


def _sentence(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return f"{answer.what} redirects to another address; is the site's url right?"
    text = answer.body[: 16 * LONGEST_REASON].decode("utf-8", "replace")
    if "has been banned" in text:
        return (
            "REDCap has banned this machine's address for asking too often; only the administrator of the server"
            " can lift the ban."
        )
    try:
        found = answer.json()
    except LabfsError:
        xml = re.search(r"<error>(.*?)</error>", text, re.DOTALL)
        plain = re.match(r"ERROR: (.*)", text, re.DOTALL)
        message = html.unescape(xml[1]) if xml else plain[1] if plain else ""
    else:
        message = str(found.get("error") or "") if isinstance(found, dict) else ""
    message = " ".join(re.sub(r"<[^<>]*>", " ", message).split())[:LONGEST_REASON]
    # A refusal is said of its project, by whoever asked; what is tried again is said of the request.
    about = f"{answer.what}: " if answer.status >= 408 else ""
    return f"{about}REDCap says: {message}" if message else ""
