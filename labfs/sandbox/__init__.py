"""The sandbox: a faithful local stand-in of the lab systems, for the demo, the tests and any client.

It shares no code with the rest of labfs; only HTTP joins them, so that a misreading of a service's
contract cannot hide by being made twice.

    serve     several applications on loopback ports     store      SQLite and blobs in a directory
    faults    faults as values, and counters             control    the origin that sets and shows them
    blobs     the presigned object store                 specimens  small valid lab files
    service   what a service must be                     basespace  … one package each
    detached  requests without their client             cost       what a request costs its service
    disguises answers that their headers belie

A new service is a package with a class that is a `Service`, and a row in SERVICES.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from labfs.sandbox import blobs, serve
from labfs.sandbox.basespace import BaseSpace
from labfs.sandbox.clarity import Clarity
from labfs.sandbox.control import control
from labfs.sandbox.faults import Layer, Watch
from labfs.sandbox.odm import Odm
from labfs.sandbox.portal import Portal
from labfs.sandbox.redcap import Redcap
from labfs.sandbox.service import Service
from labfs.sandbox.store import Store

SERVICES: tuple[Callable[[Store, blobs.Blobs], Service], ...] = (BaseSpace, Clarity, Odm, Portal, Redcap)


def run(directory: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve a sandbox until it is told to end; `say` gets a line that starts with `ready`.

    With a port, the control origin takes it and the blob origin and the services take the next ones, in
    the order of SERVICES; with 0 all take free ones. Raises OSError for a port that is taken or a
    directory that cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    store, watch = Store(directory), Watch()
    origin = blobs.Blobs(store, _secret(directory))
    services = [build(store, origin) for build in SERVICES]
    apps: dict[str, ASGIApp] = {
        "control": control(watch, {service.name: service.switches for service in services}),
        "blobs": Layer(origin.app, "blobs", watch, blobs.error),
        **{service.name: Layer(service.app, service.name, watch, service.error) for service in services},
    }
    listeners = {name: serve.bind(port + index if port else 0) for index, name in enumerate(apps)}
    urls = {name: serve.address(listener) for name, listener in listeners.items()}
    origin.url = urls["blobs"]
    for service in services:
        service.url = urls[service.name]
        service.seed()
    _describe(directory, urls, services)
    pairs = [(listeners[name], app) for name, app in apps.items()]
    serve.serve(pairs, lambda: say(f"ready {directory} control {urls['control']}"))


def _secret(directory: Path) -> bytes:
    path = directory / "signing-key"
    if not path.exists():
        _write(path, secrets.token_hex(32))
    return path.read_bytes()


def _describe(directory: Path, urls: dict[str, str], services: list[Service]) -> None:
    """Write what clients need: `labfs.toml` for labfs, `sandbox.json` for everybody else."""
    known = {
        "control": urls["control"],
        "sites": {service.name: service.url for service in services},
        "blobs": urls["blobs"],
        "credentials": {service.name: service.credentials for service in services},
    }
    _write(directory / "sandbox.json", json.dumps(known, indent=2))
    sections = [_section(service) for service in services if service.site]
    _write(
        directory / "labfs.toml",
        "\n".join(["# Written by `labfs sandbox`; it is written anew at every start.", "xattrs = true", *sections]),
    )


def _section(service: Service) -> str:
    values: dict[str, Any] = {"kind": service.name, "url": service.url, **service.site}
    lines = "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
    return f"[sites.{service.name}]\n{lines}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)  # a JSON string, number or list of them is valid TOML too


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
