"""Tell the service manager how a mount is, as sd_notify(3) describes it.

Tests: mount/test_host.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

ABSTRACT = "@"  # at the beginning of an address that is no path


def ready(sentence: str) -> None:
    """Say that the mount serves, with a sentence for `systemctl status`; nothing where nobody waits for it.

    A service manager that cannot be reached is no reason to end a mount: it is logged.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith(ABSTRACT):
        address = f"\0{address[1:]}"
    state = f"READY=1\nSTATUS={sentence.splitlines()[0]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(errors="backslashreplace"), address)
    except OSError as error:
        log.warning("The service manager cannot be told that the mount serves: %s.", error.strerror or error)
