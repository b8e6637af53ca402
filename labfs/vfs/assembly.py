"""The one set-up of a core: what it keeps on this machine, and the tasks that go on behind the requests of doors.

Tests: core/test_histories, mount/test_cli.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from labfs.errors import ConfigError
from labfs.read.below.common import Others
from labfs.read.store import Store
from labfs.tree.remembered.listings import Listings
from labfs.tree.remembered.others import Common
from labfs.tree.remembered.others import Others as OthersListings
from labfs.tree.remembered.seen import Seen
from labfs.tree.remembered.sizes import Sizes
from labfs.tree.site import Site
from labfs.vfs.drafts.life import DRAFT_S
from labfs.vfs.drafts.signs import Known
from labfs.vfs.leases import Leases, Lessor
from labfs.vfs.vfs import Vfs
from labfs.write.spool import Spool

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a core keeps what it must, and how much of it; sizes in bytes."""

    directory: Path  # private; for one core at a time
    cache: Path | None = None  # of what was read, on disk; usually `directory`
    cache_bytes: int = 128 * MIB  # in memory
    disk_bytes: int = 1024 * MIB
    draft_names: Sequence[str] = ()  # patterns of names that are never the last ones
    draft_s: float = DRAFT_S  # to wait for the last name of a file
    account: Callable[[str, bytes], str | None] = field(default=lambda site, salt: None)  # by which lists are kept

    @property
    def spool(self) -> Path:
        return self.directory / "spool"


class Member(Protocol):
    """What one account of a server shares with the same account elsewhere."""

    @property
    def blocks(self) -> Others: ...
    @property
    def leases(self) -> Lessor: ...
    @property
    def listings(self) -> OthersListings: ...


class Sharing(Protocol):
    """What is shared with other machines."""

    salt: bytes

    def member(self, kind: str, url: str, digest: str) -> Member:
        """Return what those share who have the account of a slow digest with `salt` at a server."""
        ...

    async def run(self) -> None:
        """Do what nobody waits for."""
        ...


@asynccontextmanager
async def assembled(
    sites: Sequence[Site],
    storage: Storage,
    share: Sharing | None = None,
    *,
    spool: Spool | None = None,
    tended: bool = True,
) -> AsyncIterator[Vfs]:
    """Serve sites as one tree with what is stored on this machine; what an earlier core left there is taken over.

    The outbox and drafts are seen to meanwhile, unless they are not `tended`. `Vfs.finish` is for the caller, who knows
    how long that may take. Raises ConfigError where nothing that is written can be kept.
    """
    spool = spool or spool_at(storage)
    with ExitStack() as files:
        sizes = files.enter_context(closing(Sizes(storage.directory / "sizes.sqlite")))
        seen = files.enter_context(closing(Seen(storage.directory / "seen.sqlite")))
        listings = files.enter_context(closing(Listings(storage.directory / "kept.sqlite")))
        for site in sites:
            account = storage.account(site.name, listings.salt)
            if account is not None:
                listings.admit(site.name, account)
        async with trio.open_nursery() as nursery:
            members = {} if share is None else _members(sites, storage, share)
            others = {key: member.blocks for key, member in members.items()}
            cache = storage.cache or storage.directory
            store = Store(nursery, storage.cache_bytes, cache, storage.disk_bytes, others)
            if share is not None:
                nursery.start_soon(share.run)
            known = Known(storage.draft_names)
            common = Common({key: member.listings for key, member in members.items()})
            leases = Leases({key: member.leases for key, member in members.items()})
            vfs = Vfs(nursery, sites, store, spool, sizes, seen, listings, known, storage.draft_s, leases, common)
            if tended:
                nursery.start_soon(vfs.outbox.run)
                nursery.start_soon(vfs.drafts.run)
                nursery.start_soon(vfs.tidying.run)
                nursery.start_soon(vfs.polling.run)
            try:
                yield vfs
            finally:
                nursery.cancel_scope.cancel()


def _members(sites: Sequence[Site], storage: Storage, share: Sharing) -> dict[str, Member]:
    """Return what each site's account shares, by the key of the site."""
    digests = {site: storage.account(site.name, share.salt) for site in sites}
    return {site.key: share.member(site.kind, site.address, known) for site, known in digests.items() if known}


def spool_at(storage: Storage) -> Spool:
    """Return the spool, once what an earlier core left there is taken over. Raises ConfigError."""
    try:
        spool = Spool(storage.spool)
    except OSError as error:
        raise ConfigError(f"labfs cannot keep what is written in {storage.spool}: {error.strerror}.") from error
    spool.adopt()
    return spool
