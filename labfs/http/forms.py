"""A multipart/form-data body around a file that stays on disk: rewindable, and of known length.

The order of fields is preserved, since some services parse bodies as a stream (ODM multipart uploads reference).

Tests: backends/test_texts.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence

from labfs.backend import Source
from labfs.http.texts import encoded


class Form:
    """The body of a form: text fields in order, then one file. Itself a `Source`."""

    def __init__(self, fields: Sequence[tuple[str, str]], field: str, filename: str, kind: str, file: Source) -> None:
        self._file = file
        boundary = f"labfs-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = [_part(boundary, f'name="{_quoted(name)}"') + f"\r\n{value}\r\n" for name, value in fields]
        disposition = f'name="{_quoted(field)}"; filename="{_quoted(filename)}"'
        head.append(_part(boundary, disposition) + f"Content-Type: {kind}\r\n\r\n")
        self._head = encoded("".join(head))
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    @property
    def size(self) -> int:
        return len(self._head) + self._file.size + len(self._tail)

    def chunks(self) -> Iterator[bytes]:
        yield self._head
        yield from self._file.chunks()
        yield self._tail

    def md5(self) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.digest()


def _part(boundary: str, disposition: str) -> str:
    return f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n"


def _quoted(text: str) -> str:
    """Escape a name as browsers do (WHATWG, multipart/form-data encoding algorithm)."""
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
