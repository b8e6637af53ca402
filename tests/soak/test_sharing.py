"""The model of sharing beside real processes: what it says of 1,000 workers is worth what it says of 2, 4, 8 and 16."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import redcap_stage
import shared_stage
from shared_stage import at_once
from sharing import MIB, pace, simulated
from stage import Folder, Sandbox, until

SOAK = bool(os.environ.get("LABFS_SOAK"))
WORKERS = (2, 4, 8, 16)
SIZE, COUNT, ROOM_MIB = 8 * MIB, 4, 24
READ = """
    result = sum(len(fs.cat_file(path)) for path in (reversed(paths) if backwards else paths))
"""

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(not SOAK, reason="takes minutes: LABFS_SOAK=1")]


def files(record: Folder) -> list[str]:
    for number in range(COUNT):
        record.put(f"f{number}", random.Random(number).randbytes(SIZE))
    return [f"{record.at(Path())}/f{number}" for number in range(COUNT)]


@pytest.mark.parametrize("count", WORKERS)
def test_the_bytes_and_the_pace_that_a_server_sees(count: int, sandbox: Sandbox, tmp_path: Path) -> None:
    rows = {}
    redcap = redcap_stage.Redcap(sandbox)
    redcap.http.close()
    with shared_stage.store(tmp_path) as store:
        for tier, mib in (("none", 0), ("ample", 256), ("small", ROOM_MIB)):
            base = tmp_path / tier
            base.mkdir()
            config = shared_stage.configured(sandbox.config, base, store.url, mib or 256)
            if not mib:
                config.write_text(config.read_text().partition("\n[shared]")[0])
            paths = files(sandbox.fresh())
            with shared_stage.workers(base, config, count) as machines:
                at_once(machines, "fs.ls('basespace')")
                sandbox.reset()
                if tier == "small":  # one after another, so that each finds what the one before has left
                    for number, worker in enumerate(machines):
                        worker.do(READ, paths=paths, backwards=bool(number % 2))
                        until(lambda: store.client.exists("labfs:1:blocks") == 1)
                else:
                    at_once(machines, READ, paths=paths, backwards=False)
                seen = sandbox.report()["bytes_out"]["blobs"]
                sandbox.reset()
                if tier != "small":
                    at_once(machines, "[fs.ls('redcap/biobank', refresh=True) for _ in range(3)]")
                times = sorted(row["at"] for row in sandbox.log() if row["service"] == "redcap")
            most = max((sum(at <= other < at + 1 for other in times) for at in times), default=0)
            rows[tier] = seen, most, len(times)
            store.calm()
            shutil.rmtree(base)
    readings = [[(n, SIZE) for n in range(COUNT)] for _ in range(count)]
    whole = COUNT * SIZE
    said = {"none": simulated(readings, None).server_bytes, "ample": simulated(readings, 256 * MIB).server_bytes}
    forth = [(n, SIZE) for n in range(COUNT)]
    in_turn = [[file for number in range(count) for file in (forth[::-1] if number % 2 else forth)]]
    said["small"] = simulated(in_turn, ROOM_MIB * MIB).server_bytes
    for tier, (seen, most, asked) in rows.items():
        print(f"{count} workers, {tier}: {seen / whole:.2f} of the files' bytes, the model says {said[tier] / whole:.2f};"
              f" at most {most} requests in a second of {asked}")  # fmt: skip
        assert seen == pytest.approx(said[tier], rel=0.02 if tier != "small" else 0.15)
    _, rate = pace(count, rows["ample"][2] // count, 5, shared=True)
    assert rows["ample"][1] <= rate
    assert rows["none"][1] > rate
