"""Types into a program at a terminal: `python3 typist.py 'KEYS|KEYS' COMMAND…`, resting before each group of keys."""

from __future__ import annotations

import os
import pty
import select
import sys
import time

REST_S = 0.7


def main(keys: str, *command: str) -> int:
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.execvp(command[0], command)
    for group in keys.encode().decode("unicode_escape").split("|"):
        _listen(terminal, REST_S)
        os.write(terminal, group.encode())
    _listen(terminal, 30)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _listen(terminal: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            if select.select([terminal], [], [], left)[0] and not os.read(terminal, 65536):
                return
        except OSError:
            return  # it has ended


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
