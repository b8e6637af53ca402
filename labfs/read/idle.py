"""Whether the processors of this machine have time to spare: what can wait gives way to what is waited for.

Source: proc(5), the first line of /proc/stat. Where there is none there is always time.

Tests: core/test_shelf.
"""

from __future__ import annotations

from pathlib import Path

SPARE = 0.3  # of all processors' time, which must have been idle


class Processors:
    """The processors since the last look."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._before = (0, 0)

    def have_time(self) -> bool:
        """Whether at least `SPARE` of their time was idle since this was asked before."""
        try:
            times = [int(word) for word in self._stat.read_text().partition("\n")[0].split()[1:9]]
            idle, total = times[3] + times[4], sum(times)
        except (OSError, ValueError, IndexError):
            return True
        (idle_before, total_before), self._before = self._before, (idle, total)
        return idle - idle_before >= SPARE * (total - total_before)
