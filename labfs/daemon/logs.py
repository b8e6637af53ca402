"""The log of a mount: a file of bounded size or the terminal, and its level, which can be changed while it runs.

Tests: mount/test_looking.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labfs.errors import ConfigError, secrecy, tracing

LOG_BYTES = 5 * 1024 * 1024
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OURS = logging.getLogger("labfs")


class Log:
    """The log of this process, in a file or, without a `path`, on the terminal."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._traces = 0
        self._handler: logging.Handler = logging.StreamHandler()
        if path is not None:
            path.touch(mode=0o600)
            self._handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
            )
        self._handler.setFormatter(secrecy.Formatter("%(asctime)s %(levelname)s %(message)s"))
        # Libraries log whole addresses and headers: of their records only warnings and errors.
        logging.basicConfig(level=logging.WARNING, handlers=[self._handler])
        wanted = os.environ.get("LABFS_LOG", "INFO").upper()
        self.set_level(wanted if wanted in logging.getLevelNamesMapping() else "INFO")

    @property
    def level(self) -> str:
        return logging.getLevelName(self._handler.level)

    def set_level(self, level: str) -> None:
        """Log what is at least as important as `level`. Raises ConfigError."""
        if level not in logging.getLevelNamesMapping():
            raise ConfigError(f"There is no log level “{level}”; there are: {', '.join(LEVELS)}.")
        self._handler.setLevel(level)
        self._let_through()

    def _let_through(self) -> None:
        OURS.setLevel(logging.DEBUG if self._traces else self._handler.level)

    @contextmanager
    def traced(self, path: str) -> Iterator[tracing.Trace]:
        """Collect what happens at a path in the block, whatever the level of the log is."""
        self._traces += 1
        self._let_through()
        try:
            with tracing.tracing(path, OURS) as trace:
                yield trace
        finally:
            self._traces -= 1
            self._let_through()
