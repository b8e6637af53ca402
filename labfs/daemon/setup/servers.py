"""What `labfs doctor` finds at each server: the way there, its clock, our credentials, and what it supports.

Nothing is written there. What a server supports is seen at the first file that is found within a few listings.

Tests: mount/test_doctor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import trio

from labfs.backend import Backend, Capabilities, Entry, Replace, dispensable, fetched, largest
from labfs.daemon.config import SiteSettings
from labfs.daemon.setup import asking
from labfs.daemon.setup.findings import Finding, good, note, wrong
from labfs.errors import Barred, ConfigError, Denied, Unauthorized, Unranged, sentence
from labfs.http.download import LONGEST_SKIP
from labfs.http.network.contact import Contact, contact
from labfs.tree.site import Site

ASKED_S = 25.0  # for all that is asked of one server
LISTINGS = 20  # at most, to find a file
CLOCKS_S = 60.0  # by which two clocks may differ
SOON_S = 21 * 24 * 3600.0  # before a certificate's end, from when that is told
SAVING = {
    Replace.NEWER: "a save over a file is its newer version",
    Replace.IN_PLACE: "a save over a file replaces it",
    Replace.BY_DELETE: "a save over a file uploads a new one and then deletes the old one",
    Replace.NEVER: "no file can be saved over",
}


def of_servers(path: Path) -> list[Finding]:
    """Ask all servers of a configuration at once. Raises ConfigError if it cannot be read."""
    known = asking.configured(path)
    found: dict[str, list[Finding]] = {}

    async def one(settings: SiteSettings) -> None:
        found[settings.name] = await _of_server(settings)

    for bad in known:
        if isinstance(bad, asking.Standing):
            fix = f"Correct its section in {path}, or run: labfs login {bad.name}"
            found[bad.name] = [wrong(bad.name, bad.problem, fix)]
    asking.at_once(one, [each for each in known if isinstance(each, SiteSettings)])
    return [finding for each in known for finding in found[each.name]]


async def _of_server(settings: SiteSettings) -> list[Finding]:
    name, found = settings.name, list[Finding]()
    with trio.move_on_after(ASKED_S) as scope:
        try:
            way = await contact(name, settings.url, proxy=settings.proxy, ca=settings.ca, timeout_s=settings.timeout_s)
            found += _of_way(settings, way)
            await _of_account(settings, found.append)
        except Exception as error:  # a mistake in one backend hides no other site
            found.append(wrong(name, sentence(error), _fix(settings, error)))
    if scope.cancelled_caught:
        found.append(wrong(name, f"{name} did not answer all questions within {ASKED_S:.0f} s.", "Ask again later."))
    return found


def _fix(settings: SiteSettings, error: Exception) -> str:
    match error:
        case Unauthorized():
            return f"labfs login {settings.name}"
        case Denied():
            return f"Ask its administrator for the right, or use another account: labfs login {settings.name}"
        case ConfigError() | Barred():
            return "Correct what the sentence names: the proxy, the certificate (ca), or the site's url."
    return f"Compare {settings.url} with the address that a browser on this machine opens; then ask again."


def _of_way(settings: SiteSettings, way: Contact) -> list[Finding]:
    name = settings.name
    by = f"by {way.tls}" if way.tls else "without encryption" if settings.url.startswith("http:") else "by TLS"
    through = f", through the proxy {way.proxy}" if way.proxy else ""
    found = [good(name, f"{settings.url} answers in {1000 * way.latency_s:.0f} ms, {by}{through}.")]
    if way.expires_s is not None and way.expires_s - time.time() < SOON_S:
        ends = time.strftime("%d %B %Y", time.localtime(way.expires_s))
        found.append(note(name, f"The certificate of {name} ends on {ends}.", "Whoever runs the server renews it."))
    if way.ahead_s is None:
        found.append(note(name, f"{name} tells no time, so that this machine's clock cannot be compared."))
    elif abs(way.ahead_s) > CLOCKS_S:
        side = "ahead of" if way.ahead_s > 0 else "behind"
        found.append(
            wrong(
                name,
                f"The clock of this machine is {_span(abs(way.ahead_s))} {side} that of {name}; signed addresses and"
                " certificates can be refused.",
                "sudo timedatectl set-ntp true (if this clock is right, tell whoever runs the server).",
            )
        )
    else:
        found.append(good(name, "Its clock and this machine's agree."))
    return found


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minute(s)"


async def _of_account(settings: SiteSettings, tell: Callable[[Finding], None]) -> None:
    site, name = settings.open(), settings.name
    try:
        with dispensable():
            user = await asking.introduced(site)
            rights = await site.backend.rights()
        told = f"It may: {rights}." if rights else "What it may do, the system does not tell."
        tell(good(name, f"The credentials are accepted, as {user}. {told}"))
        tell(good(name, _limits(site)))
        tell(await _support(site))
    finally:
        await site.backend.aclose()


def _limits(site: Site) -> str:
    capabilities = site.backend.capabilities
    mib = largest(site.backend) >> 20
    most = f"{mib >> 10:,} GiB" if mib >= 10 * 1024 else f"{mib:,} MiB"
    return f"A file may have {most}; {SAVING[capabilities.replace]}; {_removal(site, capabilities)}."


def _removal(site: Site, capabilities: Capabilities) -> str:
    if not capabilities.deletable:
        return "it deletes nothing"
    return "it deletes files" if site.may_delete else 'it deletes files, for which access = "full" is needed'


async def _support(site: Site) -> Finding:
    """See at one file how its size and its bytes are had."""
    sample = await _sample(site.backend)
    if sample is None:
        return note(site.name, "No file was found in the first listings, at which to see sizes and ranges.")
    size, how = sample.size, "Sizes are in its listings"
    if size is None:
        size = await site.backend.measure(sample)
        how = "Sizes are told by one small request each" if size is not None else "Sizes are told by the bytes alone"
    version = "versions by a token of its own" if sample.version else "no versions"
    return good(site.name, f"{how}, and {version}; {await ranges(site.backend, sample, size)}.")


async def ranges(backend: Backend, sample: Entry, size: int | None) -> str:
    """Return in words whether a part of a file is sent by itself, tried at a file of so many bytes."""
    if not backend.capabilities.ranged:
        return "files come whole, without ranges"
    if not size:
        return "ranges were not tried, for want of a size"
    try:
        content = backend.content(sample)
        await content.prepare()
        await fetched(content, size - 1, size)
    except Unranged:
        return "this server sends no ranges, so that files come whole"
    return "ranges work" if size > LONGEST_SKIP else "a part of a file can be read (tried at a small one only)"


async def _sample(backend: Backend) -> Entry | None:
    """Return a file that tells whether there are ranges, else the largest of so many listings; None if there is none.

    A server without ranges is not told from one with them by a file that is small enough to be read from its start.
    """
    waiting, largest_yet = [backend.root], None
    for _ in range(LISTINGS):
        if not waiting:
            break
        try:
            entries = (await backend.page(waiting.pop(), None)).entries
        except Denied:
            continue
        for entry in entries:
            if entry.is_dir or entry.size == 0 or entry.unreadable:
                continue
            if entry.size is None or entry.size > LONGEST_SKIP or not backend.capabilities.ranged:
                return entry
            if largest_yet is None or entry.size > (largest_yet.size or 0):
                largest_yet = entry
        waiting += [entry for entry in reversed(entries) if entry.is_dir and not entry.complete][-LISTINGS:]
    return largest_yet
