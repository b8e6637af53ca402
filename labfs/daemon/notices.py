"""Desktop notifications, for people who have no terminal: a save that failed, credentials that are refused.

Sent to org.freedesktop.Notifications on the session bus (https://specifications.freedesktop.org/notification/1.2/);
nothing is sent where a mount was begun without one, as in a terminal-only session or by a service. At most one is sent
for a path, or a site, and a cause.

Tests: mount/test_notices.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Mapping
from typing import Any

import trio
from cachetools import LRUCache
from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import open_dbus_connection

from labfs.errors.reasons import SAVE, Reason

log = logging.getLogger(__name__)

WAITING = 20  # to be sent; more at a time tell a person nothing
KEPT = 1000  # paths and causes
ANSWER_S = 3.0
NAME = "org.freedesktop.Notifications"
ADDRESS = DBusAddress("/org/freedesktop/Notifications", bus_name=NAME, interface=NAME)


class Notices:
    """Picks the failures that a person should know of, and shows them."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._bus = environment.get("DBUS_SESSION_BUS_ADDRESS")
        self._told: LRUCache[tuple[str, str], bool] = LRUCache(KEPT)
        self._send, self._waiting = trio.open_memory_channel[tuple[str, str]](WAITING)

    def hear(self, reason: Reason) -> None:
        """Have a failure shown if it is one of a save or of credentials, unless that was shown before."""
        saved, refused = reason.request == SAVE, reason.cause == "Unauthorized"
        subject = reason.path if saved else reason.site
        if self._bus is None or not (saved or refused) or (subject, reason.cause) in self._told:
            return
        self._told[subject, reason.cause] = True
        name = reason.path.rpartition("/")[2]
        title = f"“{name}” was not saved" if saved else f"{reason.site} refuses the credentials"
        try:
            self._send.send_nowait((title, reason.sentence))
        except trio.WouldBlock:
            log.info("Not shown on the desktop: %s", title)

    async def run(self) -> None:
        """Show what is heard, one by one."""
        if self._bus is None:
            return
        async for title, text in self._waiting:
            try:
                await trio.to_thread.run_sync(_show, self._bus, title, text, abandon_on_cancel=True)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                log.info("The desktop shows no notifications (%s).", type(error).__name__)


def _show(bus: str, title: str, text: str) -> None:
    body = html.escape(text, quote=False)  # which may be read as markup, unlike the title
    content: tuple[Any, ...] = ("labfs", 0, "dialog-warning", title, body, [], {"urgency": ("y", 1)}, -1)
    with open_dbus_connection(bus) as connection:
        connection.send_and_get_reply(new_method_call(ADDRESS, "Notify", "susssasa{sv}i", content), timeout=ANSWER_S)
