"""What `labfs doctor` finds of the store that machines share.

Tests: mount/test_shared.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from labfs.daemon.config import Config
from labfs.daemon.setup.findings import Finding, good, note, wrong

TOPIC = "shared tier"
HERE = ("127.0.0.1", "::1", "localhost")


def of_store(config: Config) -> Iterator[Finding]:
    """Ask the store that a configuration names, if it names one. Raises ConfigError where its library is missing."""
    if config.shared is None:
        return
    where = config.shared
    latency_s, trouble = trio.run(_asked, config)
    if trouble is not None:
        fix = "Start it, correct the section shared of the configuration, or remove that section."
        yield wrong(TOPIC, f"The shared tier at {where.shown} is of no use: {trouble}", fix)
        return
    yield good(TOPIC, f"The shared tier at {where.shown} answers in {1000 * latency_s:.1f} ms.")
    if where.url.startswith("redis:") and where.host not in HERE:
        yield note(
            TOPIC,
            f"What is read travels to {where.shown} without encryption.",
            "Give its url as rediss://, unless you trust the network between.",
        )


async def _asked(config: Config) -> tuple[float, str | None]:
    share = config.share()
    return (0.0, None) if share is None else await share.tried()
