"""The whole examination that `labfs doctor` prints, and the bundle that a person can pass on without a secret in it.

Tests: mount/test_doctor.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from labfs import __version__
from labfs.backends import KINDS
from labfs.daemon import config, mounts
from labfs.daemon.setup.findings import Finding, Level, of_machine, wrong
from labfs.daemon.setup.servers import of_servers
from labfs.daemon.setup.stores import of_store
from labfs.errors import ConfigError
from labfs.errors.secrecy import HIDDEN, hidden

PACKAGES = ("pyfuse3", "trio", "httpx", "pyreqwest", "keyring", "click")
LOG_BYTES = 256 * 1024  # of the end of each log
SHOWN = (
    "kind",
    "url",
    "access",
    "timeout_s",
    "poll_s",
    "any_case",
    "ca",
    "mib",
)  # keys whose values are no secret, besides a kind's options


@dataclass(frozen=True, slots=True)
class Report:
    findings: list[Finding]
    versions: dict[str, str]

    @property
    def wrong(self) -> bool:
        return any(finding.level is Level.WRONG for finding in self.findings)

    def as_data(self) -> dict[str, Any]:
        return {
            "healthy": not self.wrong,
            "findings": [asdict(finding) for finding in self.findings],
            "versions": self.versions,
        }


def examine(path: Path) -> Report:
    """Look at this machine and ask the servers of the configuration at `path`."""
    findings = list(of_machine(path))
    ask: tuple[Callable[[Path], Iterable[Finding]], ...] = (of_servers, lambda path: of_store(config.load(path)))
    for look in ask:
        try:
            findings.extend(look(path))
        except ConfigError as error:
            told = {finding.sentence for finding in findings if finding.level is Level.WRONG}
            if "configuration" not in {
                finding.topic for finding in findings if finding.level is Level.WRONG
            } and not any(str(error) in sentence for sentence in told):
                fix = f"Correct {path} in an editor, or run: labfs login NAME --kind KIND --url URL"
                findings.append(wrong("configuration", str(error), fix))
    return Report(findings, _versions())


def _versions() -> dict[str, str]:
    found = {"labfs": __version__, "python": platform.python_version(), "kernel": platform.release(),
             "machine": platform.machine(), "system": _system()}  # fmt: skip
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.system()


# -- the bundle --------------------------------------------------------------------------------------------------


def bundle(report: Report, path: Path, target: Path) -> None:
    """Write a new archive that the user alone can read. Raises ConfigError if there is one already."""
    report_text = json.dumps({**report.as_data(), "made": time.strftime("%Y-%m-%d %H:%M:%S %z")}, indent=1)
    files = {"report.json": report_text, "configuration.json": json.dumps(bare(path), indent=1), **_logs()}
    packed = io.BytesIO()
    if target.suffix == ".zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, _clean(text))
    else:
        with tarfile.open(fileobj=packed, mode="w:gz") as tape:
            for name, text in files.items():
                data = _clean(text)
                about = tarfile.TarInfo(f"labfs-bundle/{name}")
                about.size, about.mtime, about.mode = len(data), int(time.time()), 0o600
                tape.addfile(about, io.BytesIO(data))
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            file.write(packed.getvalue())
    except FileExistsError:
        raise ConfigError(f"{target} is there already; name another file.") from None
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}.") from error


def _clean(text: str) -> bytes:
    return hidden(text).encode("utf-8", "backslashreplace")


def bare(path: Path) -> dict[str, Any]:
    """Return a configuration without its secrets: of what may hold one only the way in which it is given.

    Comments are left out: people leave former tokens in them.
    """
    try:
        data = config.read(path)
    except ConfigError as error:
        return {"unreadable": str(error).partition(": ")[0]}
    tables = data.pop("sites", {})
    found: dict[str, Any] = {name: data[name] for name in ("cache", "drafts", "previews_mib", "xattrs") if name in data}
    if "shared" in data:
        found["shared"] = _bare(data["shared"])
    found["sites"] = {name: _bare(table) for name, table in tables.items()} if isinstance(tables, dict) else HIDDEN
    return found


def _bare(table: Any) -> Any:
    if not isinstance(table, dict):
        return HIDDEN
    kind = KINDS.get(str(table.get("kind")))
    shown = (*SHOWN, *(kind.options if kind is not None else ()))
    return {key: value if key in shown and not isinstance(value, dict) else _way(value) for key, value in table.items()}


def _way(value: Any) -> Any:
    """Return how a secret is given, without what is given: a person may have put the secret itself there."""
    if isinstance(value, dict):
        return {key: HIDDEN if key in ("env", "file", "keyring") else _way(inner) for key, inner in value.items()}
    return HIDDEN


def _logs() -> dict[str, str]:
    """Return the last lines of the log of each mount point, by the name of its place."""
    found = {}
    for place in mounts.places():
        try:
            with open(place.log, "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - LOG_BYTES, 0))
                found[f"logs/{place.name}.log"] = file.read().decode("utf-8", "replace").partition("\n")[2]
        except OSError:
            continue
    return found
