"""Notifications on a real session bus: one for each path and cause, with the sentence, and none without a bus."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jeepney import HeaderFields, MessageType, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
from stage import Mount, Sandbox, until

pytestmark = pytest.mark.mount


class Desktop:
    """The service that a desktop has for notifications; `shown` has their titles and texts."""

    def __init__(self, bus: str) -> None:
        self.bus = bus
        self.shown: queue.Queue[tuple[str, str]] = queue.Queue()
        self._connection = open_dbus_connection(bus)
        self.close = self._connection.close
        self._connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                told = self._connection.receive()
            except (OSError, ConnectionError):
                return
            if (
                told.header.message_type is MessageType.method_call
                and told.header.fields[HeaderFields.member] == "Notify"
            ):
                self.shown.put((told.body[3], told.body[4]))
                self._connection.send(new_method_return(told, "u", (1,)))


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    command = ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:path={tmp_path}/bus"]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert daemon.stdout is not None
    try:
        desktop = Desktop(daemon.stdout.readline().strip())
        yield desktop
    finally:
        daemon.terminate()
        daemon.wait(10)
        daemon.stdout.close()
        desktop.close()


def test_a_failed_save_and_a_refused_token_are_shown_once(desktop: Desktop, sandbox: Sandbox, tmp_path: Path) -> None:
    mount = Mount(tmp_path, sandbox.config, "--site=basespace")
    mount.env["DBUS_SESSION_BUS_ADDRESS"] = desktop.bus
    made = sandbox.fresh()
    fault = {"service": "basespace", "method": "POST", "route": "*/files", "action": "status", "argument": 403}
    try:
        mount.start()
        at = made.at(mount.path)
        os.listdir(at)
        for name in ("a & b", "a & b", "c"):
            sandbox.faults({**fault, "times": None})
            with pytest.raises(PermissionError):
                (at / name).write_bytes(b"x")
            until(lambda: os.listdir(at) == [])
        shown = [desktop.shown.get(timeout=10) for _ in range(2)]
        assert [title for title, _ in shown] == ["“a & b” was not saved", "“c” was not saved"]
        assert all("/files" in text for _, text in shown)
        sandbox.faults({**fault, "method": "*", "route": "*", "argument": 401, "times": None})
        mount.refresh()
        for _ in range(2):
            with pytest.raises(PermissionError):
                os.listdir(at)
        title, text = desktop.shown.get(timeout=10)
        assert (title, "token or password was refused" in text) == ("basespace refuses the credentials", True)
        assert desktop.shown.empty()
    finally:
        sandbox.faults()
        mount.clean_up()
