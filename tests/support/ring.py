"""A keyring for tests: a real backend of the library, which keeps secrets in the JSON file that LABFS_RING names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keyring.backend
import keyring.errors

NONE = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}  # a process without one, whatever this machine has


class Ring(keyring.backend.KeyringBackend):
    priority: Any = 9

    @property
    def _file(self) -> Path:
        return Path(os.environ.get("LABFS_RING", "/nonexistent"))  # the library keeps a backend for a whole process

    def _all(self) -> dict[str, str]:
        if os.environ.get("LABFS_RING_LOCKED"):
            raise keyring.errors.KeyringLocked("a paragraph of a library\nof several lines")
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._all().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._file.write_text(json.dumps({**self._all(), f"{service} {username}": password}))


def env(file: Path) -> dict[str, str]:
    """Return the environment of a process that has this keyring."""
    return {
        "LABFS_RING": str(file),
        "PYTHON_KEYRING_BACKEND": "ring.Ring",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        ),
    }
