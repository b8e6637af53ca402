"""The sandbox: a faithful local stand-in of the lab systems, for the demo, the tests and any client.

It shares no code with the rest of labfs; only HTTP joins them, so that a misreading of a service's
contract cannot hide by being made twice.

    serve     several applications on loopback ports     store      SQLite and blobs in a directory
    faults    faults as values, and counters             control    the origin that sets and shows them
    blobs     the presigned object store                 basespace  that service
    specimens small valid lab files
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from labfs.sandbox import basespace, blobs, serve
from labfs.sandbox.control import control
from labfs.sandbox.faults import Layer, Watch
from labfs.sandbox.store import Store


def run(directory: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve a sandbox until it is told to end; `say` gets a line that starts with `ready`.

    With a port, the control origin takes it and the services take the next ones; with 0 all take free
    ones. Raises OSError for a port that is taken or a directory that cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    store, watch = Store(directory), Watch()
    origin = blobs.Blobs(store, _secret(directory))
    hub = basespace.BaseSpace(store, origin)
    switches: dict[str, Any] = {basespace.SERVICE: hub.switches}
    apps: dict[str, ASGIApp] = {
        "control": control(watch, switches),
        "blobs": Layer(origin.app, "blobs", watch, blobs.error),
        basespace.SERVICE: Layer(hub.app, basespace.SERVICE, watch, basespace.error),
    }
    listeners = {name: serve.bind(port + index if port else 0) for index, name in enumerate(apps)}
    urls = {name: serve.address(listener) for name, listener in listeners.items()}
    origin.url = urls["blobs"]
    basespace.seed(hub.shelf)
    _describe(directory, urls)
    pairs = [(listeners[name], app) for name, app in apps.items()]
    serve.serve(pairs, lambda: say(f"ready {directory} control {urls['control']}"))


def _secret(directory: Path) -> bytes:
    path = directory / "signing-key"
    if not path.exists():
        _write(path, secrets.token_hex(32))
    return path.read_bytes()


def _describe(directory: Path, urls: dict[str, str]) -> None:
    """Write what clients need: `labfs.toml` for labfs, `sandbox.json` for everybody else."""
    sites = {"basespace": urls[basespace.SERVICE]}
    known = {
        "control": urls["control"],
        "sites": sites,
        "blobs": urls["blobs"],
        "credentials": {"basespace": {"token": basespace.TOKEN}},
    }
    _write(directory / "sandbox.json", json.dumps(known, indent=2))
    _write(
        directory / "labfs.toml",
        "# Written by `labfs sandbox`; it is written anew at every start.\n"
        "[sites.basespace]\n"
        'kind = "basespace"\n'
        f'url = "{sites["basespace"]}"\n'
        f'token = "{basespace.TOKEN}"\n'
        'access = "full"\n',
    )


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
