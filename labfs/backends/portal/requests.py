"""How the Portal is asked: one object, or a page of a list.

Tests: backends/test_portal_backend, mount/test_portal_mount.
"""

from __future__ import annotations

from typing import Any

from labfs.backends.portal import rows
from labfs.backends.portal.rows import API, Json
from labfs.errors import Malformed
from labfs.http.client import Answer, Client, Request

PAGE = 1000  # there is no maximum; many rows at once, since lists shift while they are read
MOST_PAGES = 100


class Requests:
    """Questions to one portal."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.site = client.site

    async def get(self, path: str) -> tuple[Json, Answer]:
        answer = await self._client.call(Request("GET", f"{API}/{path}/", headers=rows.JSON))
        return rows.object_of(answer), answer

    async def some(
        self, path: str, offset: int = 0, limit: int = PAGE, **filters: str
    ) -> tuple[list[Any], int, Answer]:
        """Return some of a list's items, and how many it has."""
        params = {"limit": str(limit), "offset": str(offset), **filters}
        answer = await self._client.call(Request("GET", f"{API}/{path}/", params=params, headers=rows.JSON))
        found = rows.object_of(answer)
        items, total = found.get("results"), found.get("count")
        if not isinstance(items, list) or not isinstance(total, int):
            raise Malformed(f"{answer.what} answered without a list of results.")
        return items, total, answer

    async def all(self, path: str, **filters: str) -> tuple[list[Any], Answer]:
        """Return all items of a list, and the last answer that told some."""
        found: list[Any] = []
        for _ in range(MOST_PAGES):
            items, total, answer = await self.some(path, len(found), PAGE, **filters)
            if items and items == found[-len(items) :]:
                break
            found += items
            if not items or len(found) >= total:
                return found, answer
        raise Malformed(f"{answer.what} has no end.")


def after(offset: int, items: list[Any], total: int) -> int | None:
    """Return where the next page of a list starts, None at the end."""
    end = offset + len(items)
    return end if items and end < total else None
