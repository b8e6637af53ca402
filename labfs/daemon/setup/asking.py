"""Asking a site who we are, and what it means that another system answers there.

Tests: mount/test_setup.
"""

from __future__ import annotations

from labfs.backend import curious
from labfs.backends import KINDS
from labfs.errors import Invalid, Malformed, NotFound, Unsupported
from labfs.tree.site import Site


async def introduced(site: Site) -> str:
    """Return whom a site takes us for. Raises Malformed where another system is at its address."""
    with curious():
        try:
            return await site.backend.check()
        except (NotFound, Unsupported, Invalid) as error:
            title = KINDS[site.kind].title
            raise Malformed(
                f"{site.name}: no {title} answers at {site.address}; is the site's url right? ({error})"
            ) from error
