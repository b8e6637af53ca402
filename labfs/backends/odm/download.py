"""The bytes of an attached file, and what it means that the server does not send them.

Source: FilesAsUserApi: 400 of a download says that the file cannot be retrieved, 406 that it is no attachment that can
be downloaded. Neither is a mistake of the request, as elsewhere.

Tests: mount/test_transcript.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labfs.backend import Entry, Sink, Stretch
from labfs.errors import Invalid, Malformed
from labfs.http.client import Client
from labfs.http.contents import Direct

NO_DOWNLOAD = 406
BY_CURATOR = "ODM's own pages show whether it is an attachment; its curator can attach it again."


class Download(Direct):
    """The content of a file behind `path`. Raises Malformed for what cannot be downloaded."""

    def __init__(self, client: Client, path: str, entry: Entry) -> None:
        super().__init__(client, path, entry.size)
        self._name = entry.name

    async def stream(self, stretch: Stretch) -> None:
        with self._explained():
            await super().stream(stretch)

    async def pour(self, sink: Sink) -> None:
        with self._explained():
            await super().pour(sink)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Invalid as error:
            what = "is nothing that can be downloaded" if error.status == NO_DOWNLOAD else "cannot be retrieved"
            raise Malformed(f"“{self._name}” {what}: {error.said}").advised(BY_CURATOR) from error
