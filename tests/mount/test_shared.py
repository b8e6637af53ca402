"""Several machines that share a store: turns, blocks, listings and leases; and a store that fails in every way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redcap_stage
import shared_stage
from shared_stage import Store, Worker, at_once
from stage import Sandbox

from labfs.backends.basespace.backend import CAPABILITIES


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with shared_stage.store(tmp_path_factory.mktemp("redis")) as made:
        yield made


@pytest.fixture(scope="module")
def machines(running: Sandbox, one_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    base = tmp_path_factory.mktemp("machines")
    config = shared_stage.configured(running.config, base, one_store.url)
    with shared_stage.workers(base, config, 4) as made:
        yield made


@pytest.fixture
def store(one_store: Store, machines: list[Worker]) -> Iterator[Store]:
    """The store, which is used by all machines when a test begins."""
    one_store.calm()
    at_once(machines, "while core_of().share.tier.trouble: time.sleep(0.02)")
    yield one_store
    one_store.calm()


def crowded(times: list[float], count: int) -> float:
    """Return the shortest time in which more than `count` of these requests came, in seconds."""
    times = sorted(times)
    return min((late - early for early, late in zip(times, times[count:], strict=False)), default=float("inf"))


# -- turns -----------------------------------------------------------------------------------------------


def test_no_more_requests_in_a_second_than_one_machine_may_send(
    machines: list[Worker], store: Store, sandbox: Sandbox
) -> None:
    redcap = redcap_stage.Redcap(sandbox)
    redcap.record()
    redcap.http.close()
    sandbox.reset()
    at_once(machines, "result = [len(fs.ls('redcap/biobank', refresh=True)) for _ in range(3)]")
    times = [row["at"] for row in sandbox.log() if row["service"] == "redcap"]
    assert len(times) >= 12
    assert crowded(times, 5) >= 1.0


def test_no_more_requests_at_a_time_than_one_machine_may_send(
    machines: list[Worker], store: Store, sandbox: Sandbox
) -> None:
    paths = [str(sandbox.fresh().at(Path())) for _ in range(6)]
    sandbox.faults({"service": "basespace", "times": None, "action": "delay_s", "argument": 0.3})
    sandbox.reset()
    at_once(
        machines,
        """
        core = core_of()
        for asked in [core.submit(core.door.listing, path, True) for path in paths]:
            asked.result()
        """,
        paths=paths,
    )
    times = [row["at"] for row in sandbox.log() if row["service"] == "basespace"]
    assert len(times) >= 24
    assert crowded(times, CAPABILITIES.connections) >= 0.29
    assert (max(times) - min(times)) / len(times) < 2 * 0.3 / CAPABILITIES.connections, "and not many fewer"
