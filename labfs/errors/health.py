"""How a site fares, as plain data: whether it answers, takes the credentials, and how soon.

Tests: mount/test_why, mount/test_status.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """How a site answers at present; `well_s` is when it last did as it should, on the monotonic clock."""

    outage: str | None = None  # why requests are refused at once, as a sentence
    refusal: str | None = None  # what it said as it refused the credentials last, as a sentence
    latency_s: float | None = None  # of its answers, of late
    well_s: float = float("-inf")
