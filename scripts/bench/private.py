"""An ordinary user's view of the machine, made by root in a private mount namespace; nothing outside of it changes.

    unshare --mount --propagation private python -m bench.private USER STAGE COMMAND...

Where only root may open /dev/fuse, as in a system without udev, the view has a device of its own. Where the checkout or
its interpreter lies in a directory that only root may enter, the view has these two there and nothing else. STAGE is
an empty directory. The mounts go with the last process of the namespace.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.processes import Failed, run
from bench.programs import CHECKOUT

FUSE, MAJOR_MINOR = Path("/dev/fuse"), ("10", "229")
MAY_ENTER, MAY_USE = 0o001, 0o006  # what others must be allowed to, with a directory and with the device


def closed(path: Path) -> Path | None:
    """Return the topmost directory on the way to a path that others may not enter."""
    way = [*reversed(path.parents), path]
    return next((one for one in way if not one.stat().st_mode & MAY_ENTER), None)


def own_device(stage: Path) -> None:
    run("mknod", "-m", "666", stage / "fuse", "c", *MAJOR_MINOR)
    run("mount", "--bind", stage / "fuse", FUSE)


def reachable(stage: Path, wanted: Iterable[Path]) -> None:
    """Put directories where they are, below empty ones in place of those that are closed."""
    doors = {path: door for path in wanted if (door := closed(path)) is not None}
    for number, path in enumerate(doors):
        (stage / str(number)).mkdir()
        run("mount", "--rbind", path, stage / str(number))
    for door in sorted(set(doors.values())):
        run("mount", "-t", "tmpfs", "-o", "mode=755,size=1m", "none", door)
    for number, path in enumerate(doors):
        path.mkdir(parents=True, exist_ok=True)
        run("mount", "--move", stage / str(number), path)


def main() -> None:
    user, stage, command = pwd.getpwnam(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    try:
        run("mount", "-t", "tmpfs", "-o", "mode=755,size=1m", "none", stage)
        if FUSE.stat().st_mode & MAY_USE != MAY_USE:
            own_device(stage)
        reachable(stage, {Path(sys.base_prefix).resolve(), CHECKOUT})
    except Failed as error:
        sys.exit(f"bench: An ordinary user's view of this machine cannot be made: {error}")
    ids = ("--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups")
    os.execvp("setpriv", ["setpriv", *ids, "--", *command])


if __name__ == "__main__":
    main()
