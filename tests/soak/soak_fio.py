"""fio writes blocks that carry their own checksums, in random order, and finds them again: `make soak` runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from memory import SYSTEMS
from operated import Operated

pytestmark = [pytest.mark.mount, pytest.mark.timeout(600)]


def fio(directory: Path, *options: str) -> None:
    command = ["fio", "--name=blocks", f"--directory={directory}", "--filename=blocks.bin", "--size=24m", "--rw=randwrite",
               "--ioengine=psync", "--fallocate=none", "--randseed=7", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd="/")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("block", ["4k", "64k", "1m"])
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_blocks_written_in_random_order_are_there_after_a_remount(system: str, block: str, tmp_path: Path) -> None:
    stage = Operated(tmp_path, system).start()
    try:
        folder = stage.box / "h"
        folder.mkdir()
        fio(folder, f"--bs={block}", "--do_verify=1")
        assert stage.settle()["kept"] == []
        stage.remount()
        fio(folder, f"--bs={block}", "--verify_only=1")
    finally:
        stage.stop()
