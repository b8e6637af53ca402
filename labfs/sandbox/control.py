"""The control origin: counters, faults and switches, for tests and for whoever develops a client.

`faults.py` has a table of the faults; a service's switches are the fields of its dataclass of that name.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from labfs.sandbox.faults import Watch


def control(watch: Watch, switches: dict[str, Any]) -> Starlette:
    """Return the application; `switches` holds one object of fields by service."""

    async def requests(_: Request) -> Response:
        return JSONResponse(watch.report())

    async def log(_: Request) -> Response:
        return JSONResponse([{"service": s, "method": m, "path": p, "at": at} for s, m, p, at in watch.log])

    async def reset(_: Request) -> Response:
        watch.reset()
        return JSONResponse({})

    async def faults(request: Request) -> Response:
        if request.method == "POST":
            try:
                watch.set(await request.json())
            except (TypeError, ValueError) as error:
                return JSONResponse({"error": f"That is not a list of faults: {error}"}, 400)
        if request.method == "DELETE":
            watch.faults.clear()
        return JSONResponse(watch.listed())

    async def switch(request: Request) -> Response:
        if request.method == "POST":
            unknown = _turn(switches, await request.json())
            if unknown:
                return JSONResponse({"error": f"There is no switch {unknown}."}, 400)
        return JSONResponse({service: asdict(values) for service, values in switches.items()})

    return Starlette(
        routes=[
            Route("/requests", requests),
            Route("/log", log),
            Route("/reset", reset, methods=["POST"]),
            Route("/faults", faults, methods=["GET", "POST", "DELETE"]),
            Route("/switches", switch, methods=["GET", "POST"]),
        ]
    )


def _turn(switches: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> str | None:
    """Set switches by service and name; return the first that does not exist."""
    for service, values in wanted.items():
        known = {field.name for field in fields(switches[service])} if service in switches else set()
        for name, value in values.items():
            if name not in known:
                return f"{service}.{name}"
            setattr(switches[service], name, value)
    return None
