"""A program that saves a file: `python writer.py ORDER`, with the order as JSON.

It carries out the steps of its order one by one. Before a call and after it, the manifest gets a line that is on
the disk before the program goes on: so it is known what was acknowledged, whatever is killed when. The first
call that fails ends the program, which closes its file as every program does that ends.

Steps: open PATH MODE · write OFFSET FILE START STOP · fsync · close · rename FROM TO · unlink PATH
       hold (for ever, with the file open) · touch FLAG · await FLAG
"""

from __future__ import annotations

import json
import os
import sys
import time

MODES = {
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_APPEND,
    "r+": os.O_RDWR,
}
CHUNK = 128 * 1024
AWAITED_S = 60.0


class Writer:
    def __init__(self, order: dict) -> None:  # type: ignore[type-arg]
        self.number = order["number"]
        self.steps = order["steps"]
        self.fd = -1
        self.manifest = os.open(order["manifest"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def run(self) -> None:
        for index, (verb, *arguments) in enumerate(self.steps):
            self.note(index, verb, "begun")
            try:
                getattr(self, f"do_{verb}")(*arguments)
            except OSError as error:
                self.note(index, verb, "failed", error.errno or -1)
                sys.exit(1)
            self.note(index, verb, "done")

    def note(self, step: int, verb: str, said: str, number: int = 0) -> None:
        line = {"writer": self.number, "step": step, "verb": verb, "said": said, "errno": number, "at": time.time()}
        os.write(self.manifest, json.dumps(line).encode() + b"\n")
        os.fdatasync(self.manifest)

    def do_open(self, path: str, mode: str) -> None:
        self.fd = os.open(path, MODES[mode], 0o644)

    def do_write(self, offset: int | None, source: str, start: int, stop: int) -> None:
        """Write the bytes `[start, stop)` of a local file at an offset, or where the file stands."""
        with open(source, "rb") as file:
            file.seek(start)
            while start < stop:
                data = file.read(min(CHUNK, stop - start))
                if offset is None:
                    count = os.write(self.fd, data)
                else:
                    count = os.pwrite(self.fd, data, offset)
                    offset += count
                start += count
                file.seek(start)

    def do_fsync(self) -> None:
        os.fsync(self.fd)

    def do_close(self) -> None:
        fd, self.fd = self.fd, -1
        os.close(fd)

    def do_rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def do_unlink(self, path: str) -> None:
        os.unlink(path)

    def do_hold(self) -> None:
        time.sleep(3600)

    def do_touch(self, flag: str) -> None:
        os.close(os.open(flag, os.O_WRONLY | os.O_CREAT, 0o600))

    def do_await(self, flag: str) -> None:
        until = time.monotonic() + AWAITED_S
        while not os.path.exists(flag):
            if time.monotonic() > until:
                raise TimeoutError(110, "the flag does not come")
            time.sleep(0.002)


if __name__ == "__main__":
    Writer(json.loads(sys.argv[1])).run()
