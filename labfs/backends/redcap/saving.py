"""Saving to REDCap: the one file of a field, and the files of a repository.

Facts used here, with their sources: importing into a field replaces what is there without a question, and no call has
a precondition; an import answers with nothing, neither number nor checksum, so that what arrived is found in the list
and compared by its bytes (PyCap, PHPCap, REDCapR); names of a repository are not unique, numbers of documents are.

Tests: backends/test_redcap_backend, backends/test_redcap_oddities.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from labfs.backend import Entry, Source, Target
from labfs.backends.looking import Change, Looking
from labfs.backends.redcap.entries import Place, mint
from labfs.backends.redcap.projects import Projects
from labfs.backends.redcap.wire import Wire
from labfs.errors import (
    Conflict,
    Denied,
    Exists,
    Invalid,
    Malformed,
    NotFound,
    Stale,
    TooLarge,
    Unanswered,
    Unavailable,
)

MIB = 1024 * 1024
DOCUMENT = "[document]"  # what servers from before 2020-11 show for any name
Address = Mapping[str, Any]
Stat = Callable[[str], Awaitable[Entry]]


class Saving:
    """Changes of files. `stat` returns the entry of an id, `address` alias and fields that lead to its file."""

    def __init__(
        self,
        wire: Wire,
        projects: Projects,
        looking: Looking,
        stat: Stat,
        address: Callable[[Entry], tuple[str, dict[str, Any]]],
    ) -> None:
        self.wire = wire
        self.projects = projects
        self._looking = looking
        self._stat = stat
        self._address = address

    # -- fields --------------------------------------------------------------------------------------

    async def fill(self, alias: str, place: Place, target: Target, source: Source) -> Entry:
        """Put a file into its field, unless somebody else has put another one there since it was listed."""
        fill = Fill(self, alias, place, target, source)
        change = Change(fill.entry_id, await fill.document(), fill.send, fill.ours, mark=(target.name, source.size))
        fill.now = change.began
        entry = await self._looking.once(change)
        with self._looking.confirming(change):
            await self._check_length(alias, source, fill.address)
        if entry.name not in (target.name, DOCUMENT):
            if change.began is None:
                with suppress(Unanswered):
                    await self._clear(alias, fill.address)
            raise Invalid(f"REDCap calls this file “{entry.name}” and not “{target.name}”; choose a plainer name.")
        return replace(entry, size=source.size)

    async def send(self, alias: str, name: str, source: Source, address: Address) -> None:
        """Send a file once. Raises Unanswered where it is not known to have arrived."""
        try:
            await self.wire.send(alias, name, source, **address)
        except Denied as error:
            # The token was good a moment ago. PHP drops the whole form, token and all, when it is too large.
            if source.size > MIB and not re.search(r"privilege|\bright", error.said, re.IGNORECASE):
                raise TooLarge(
                    f"{self.wire.where(alias)}: “{name}” was refused as if it had no token, which REDCap says of files"
                    " above its server's limit; it is too large, or the token was just revoked."
                ) from error
            raise

    async def seek(self, entry_id: str) -> Entry | None:
        with suppress(NotFound):
            return await self._stat(entry_id)
        return None

    async def holds(self, alias: str, source: Source, address: Address) -> bool:
        """Tell whether a file there has exactly these bytes; one of another length is not read."""
        with suppress(NotFound):
            if await self.wire.length(alias, **address) == source.size:
                return await self.wire.holds(alias, source, **address)
        return False

    async def _check_length(self, alias: str, source: Source, address: Address) -> None:
        length = await self.wire.length(alias, **address)
        if length != source.size:
            where = self.wire.where(alias)
            raise Malformed(f"{where} holds {length} bytes of the {source.size} that were sent; not saved.")

    # -- the repository ------------------------------------------------------------------------------

    async def shelve(self, alias: str, folder: int, target: Target, source: Source) -> Entry:
        """Put a file into the repository, beside the one whose place it takes."""
        before = {entry.id for entry in (await self.projects.folder(alias, folder)).entries}
        address = {"content": "fileRepository", "folder_id": str(folder) if folder else None}

        async def ours(began: set[str]) -> list[Entry]:
            fresh = await self._fresh(alias, folder, target.name, began)
            return [e for e in fresh if await self.holds(alias, source, self._address(e)[1])]

        async def send() -> Entry:
            await self.send(alias, target.name, source, address)
            # The import tells no number: of several new files, or one of another name, the bytes tell which it is.
            fresh = await self._fresh(alias, folder, target.name, before)
            found = fresh if [entry.name for entry in fresh] == [target.name] else await ours(before)
            if not found:
                raise Unavailable(f"{self.wire.where(alias)} took “{target.name}” and does not list it; not saved.")
            return found[-1]

        key = mint("folder", alias, folder, 0) + target.name
        change = Change(key, before, send, ours, mark=source.size, name=lambda entry: entry.id, withdraw=self.delete)
        entry = await self._looking.once(change)
        with self._looking.confirming(change):
            await self._check_length(alias, source, self._address(entry)[1])
        if entry.name != target.name:
            await self.delete(entry)
            raise Invalid(f"REDCap would call this file “{entry.name}”; choose a plainer name.")
        return replace(entry, size=source.size)

    async def _fresh(self, alias: str, folder: int, name: str, before: set[str]) -> list[Entry]:
        """Return the files of a folder that were not there before: those of that name, else all."""
        listed = (await self.projects.folder(alias, folder)).entries
        fresh = [entry for entry in listed if entry.id not in before and not entry.is_dir]
        return [entry for entry in fresh if entry.name == name] or fresh

    # -- deleting ------------------------------------------------------------------------------------

    async def delete(self, entry: Entry) -> None:
        """Delete a file; from a field only the one that was listed, since what takes its place has no copy."""
        alias, address = self._address(entry)
        now = await self.seek(entry.id)
        if now is None:
            return
        other = entry.version is not None and now.version != entry.version
        if other or (entry.label.isdecimal() and now.label != entry.label):
            raise Stale(f"{self.wire.where(alias)}: “{entry.name}” was replaced on the server; it was not deleted.")

        async def gone() -> list[Entry]:
            left = await self.seek(entry.id)
            return [entry] if left is None or left.label != now.label else []

        try:
            await self._clear(alias, address)
        except Unanswered as error:
            # A deletion that comes late would take what somebody saves meanwhile: it is waited for.
            if await self._looking.seen(gone, error):
                return
            raise
        if not await gone():
            raise Unavailable(f"{self.wire.where(alias)} did not delete “{entry.name}”.")

    async def _clear(self, alias: str, address: Address) -> None:
        with suppress(NotFound):
            await self.wire.change(alias, action="delete", **address)


class Fill:
    """One file on its way into one field; `now` is the number of the document there before it is sent."""

    def __init__(self, saving: Saving, alias: str, place: Place, target: Target, source: Source) -> None:
        self._saving = saving
        self._alias = alias
        self._place = place
        self._target = target
        self._source = source
        self._sent = False
        self.now: str | None = None
        self.address = {"content": "file", **place.address()}
        parts = (place.record, place.event, place.form, place.instance, place.field)
        self.entry_id = mint("file", alias, *parts)

    async def document(self) -> str | None:
        return (await self._saving.projects.documents(self._alias, [self._place.record])).get(self._place)

    async def send(self) -> Entry:
        """Send it, and find it; a second time only if nobody else has come since."""
        if self._sent:
            self.now = await self.document()
        self._sent = True
        self._check_unchanged()
        await self._saving.send(self._alias, self._target.name, self._source, self.address)
        entry = await self._saving.seek(self.entry_id)
        if entry is not None and entry.label != self.now:
            return entry
        if entry is None or not await self._saving.holds(self._alias, self._source, self.address):
            where = self._saving.wire.where(self._alias)
            raise Unavailable(f"{where} took “{self._target.name}” and does not hold it; not saved.")
        self._saving.projects.versioned = False  # the same number for other bytes: it tells nothing on this server
        return replace(entry, version=None)

    async def ours(self, before: str | None) -> list[Entry]:
        """Return the file in the field if it has these bytes, whatever its number was before."""
        entry = await self._saving.seek(self.entry_id)
        if entry is None or not await self._saving.holds(self._alias, self._source, self.address):
            return []
        if entry.label == before:  # the same number, so that it tells nothing; or the same bytes as before
            self._saving.projects.versioned = False
            return [replace(entry, version=None)]
        return [entry]

    def _check_unchanged(self) -> None:
        # No call has a precondition: between this look and the import somebody may still come.
        opened = self._target.replaces
        if self.now is None or (opened is not None and opened.version is None):
            return
        where = f"{self._saving.wire.where(self._alias)}: “{self._place.field}” of {self._place.record}"
        if opened is None:
            raise Exists(f"{where} already holds a file, which this one would replace.")
        if opened.version != self.now:
            raise Conflict(f"{where} holds another file than the one that was opened; it was not replaced.")
