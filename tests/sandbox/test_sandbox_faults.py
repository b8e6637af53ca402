"""Faults `lost` and `late`: the service does what it was asked for, and the client is told something else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import clarity_stage
import httpx
import odm_stage
import portal_stage
import pytest
import redcap_stage
from stage import Sandbox

DATA = b"0123456789" * 30_000  # more than one message of the server
Send = Callable[[], Any]  # the last request of an upload
Count = Callable[[], int]  # how many files with DATA the store holds


def basespace(sandbox: Sandbox, _: ExitStack) -> tuple[str, Send, Count]:
    record = sandbox.fresh().record
    return "*/files", lambda: sandbox.put(record, "f", DATA), lambda: list(sandbox.stored(record).values()).count(DATA)


def clarity(sandbox: Sandbox, stack: ExitStack) -> tuple[str, Send, Count]:
    service = stack.enter_context(clarity_stage.Clarity(sandbox))
    target = f"projects/{clarity_stage.PROJECT}"
    limsid = service.attach(target, "f")
    stored = lambda: [data for _, data in service.stored(clarity_stage.PROJECT)]  # noqa: E731
    return "*/upload", lambda: service.upload(limsid, DATA).raise_for_status(), lambda: stored().count(DATA)


def odm(sandbox: Sandbox, stack: ExitStack) -> tuple[str, Send, Count]:
    service = stack.enter_context(odm_stage.quick(sandbox))
    stack.callback(service.clear, odm_stage.EMPTY)
    stored = lambda: [row["data"] for row in service.attached(odm_stage.EMPTY)]  # noqa: E731
    send = lambda: service.send(odm_stage.EMPTY, "f", DATA).raise_for_status()  # noqa: E731
    return "*/multipart", send, lambda: stored().count(DATA)


def portal(sandbox: Sandbox, stack: ExitStack) -> tuple[str, Send, Count]:
    service = portal_stage.Service(sandbox)
    stack.callback(service.close)
    before = service.counters()
    stack.callback(service.forget, before)
    send = lambda: service.ask("POST", "attachments/", files={"file": ("f", DATA)}).raise_for_status()  # noqa: E731
    new = lambda: service.rows("id > ?", before["portal_attachments"])  # noqa: E731
    return "*/attachments/", send, lambda: [row["data"] for row in new()].count(DATA)


def redcap(sandbox: Sandbox, stack: ExitStack) -> tuple[str, Send, Count]:
    service = stack.enter_context(redcap_stage.opened(sandbox))
    record = service.record()
    field = {"record": record, "field": "counts"}
    send = lambda: service.put("biobank", "f", DATA, **field).raise_for_status()  # noqa: E731
    return "*", send, lambda: [data for _, data in service.stored(record).values()].count(DATA)


@pytest.fixture(params=[basespace, clarity, odm, portal, redcap], ids=lambda each: each.__name__)
def upload(request: pytest.FixtureRequest, running: Sandbox) -> Iterator[tuple[dict[str, str], Send, Count]]:
    """An upload's last request as a fault names it, what sends it, and what counts what became of it."""
    with ExitStack() as stack:
        stack.callback(running.faults)
        route, send, count = request.param(running, stack)
        yield {"service": request.param.__name__, "method": "POST", "route": route}, send, count


def arrives(count: Count, number: int = 1) -> bool:
    for _ in range(200):
        if count() == number:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("argument", "status", "html"),
    [
        (None, 504, None),
        (503, 503, None),
        ({"status": 502, "html": True}, 502, True),
        ({"status": 200, "html": True}, 200, True),
        ("reset", None, None),
    ],
)
def test_a_lost_answer(upload: Any, running: Sandbox, argument: Any, status: int | None, html: bool | None) -> None:
    where, send, count = upload
    running.faults({**where, "action": "lost", "argument": argument})
    running.reset()
    if status is None:
        with pytest.raises(httpx.ReadError):
            send()
    elif status == 200:
        refused(send, where["service"])
    else:
        with pytest.raises(httpx.HTTPStatusError) as problem:
            send()
        assert problem.value.response.status_code == status
        assert not html or problem.value.response.text.startswith("<!DOCTYPE html>")
    assert arrives(count)
    assert running.report()["bytes_in"][where["service"]] >= len(DATA)
    before = [row["status"] for row in running.report()["requests"] if row["method"] == "POST"]
    assert (status or 0) in before, "what is counted is what the client got"


def refused(send: Send, service: str) -> None:
    """A page in place of an answer is no error for a client that looks at the status alone."""
    if service == "basespace":
        with pytest.raises(ValueError, match="Expecting value"):
            send()
    else:
        send()


def test_a_late_request(upload: Any, running: Sandbox) -> None:
    where, send, count = upload
    running.faults({**where, "action": "late", "argument": {"after_s": 0.5}})
    started = time.monotonic()
    with pytest.raises(httpx.HTTPStatusError, match="504"):
        send()
    assert (time.monotonic() - started < 0.5, count(), running.report()["late"]) == (True, 0, 1)
    assert arrives(count)
    assert running.report()["late"] == 0
    assert time.monotonic() - started >= 0.5


def test_a_late_request_without_a_body(running: Sandbox) -> None:
    with ExitStack() as stack:
        service = portal_stage.Service(running)
        stack.callback(service.close)
        stack.callback(running.faults)
        number = service.put("f", b"x")
        running.faults(
            {"service": "portal", "method": "DELETE", "action": "late", "argument": {"after_s": 0.2, "status": 502}}
        )
        assert service.ask("DELETE", f"attachments/{number}/").status_code == 502
        assert service.ask("GET", f"attachments/{number}/").status_code == 200
        assert arrives(lambda: service.ask("GET", f"attachments/{number}/").status_code, 404)


def test_an_upload_that_breaks_off_is_not_carried_out_late(running: Sandbox) -> None:
    with ExitStack() as stack:
        service = portal_stage.Service(running)
        stack.callback(service.close)
        stack.callback(running.faults)
        before = service.counters()
        running.faults({"service": "portal", "method": "POST", "action": "late", "argument": {"after_s": 0}})

        def torn() -> Iterator[bytes]:
            yield DATA
            raise OSError("the client ends")

        headers = {"Content-Length": str(2 * len(DATA)), "Authorization": f"Token {service.known['token']}"}
        with pytest.raises(OSError, match="the client ends"):
            service.http.post("attachments/", content=torn(), headers=headers)
        time.sleep(0.1)
        assert (service.counters(), running.report()["late"]) == (before, 0)


def test_a_late_request_behind_a_reset(running: Sandbox) -> None:
    with ExitStack() as stack:
        service = portal_stage.Service(running)
        stack.callback(service.close)
        stack.callback(running.faults)
        number = service.put("f", b"x")
        fault = {"service": "portal", "method": "DELETE", "action": "late", "argument": {"after_s": 0, "reset": True}}
        running.faults(fault)
        with pytest.raises(httpx.ReadError):
            service.ask("DELETE", f"attachments/{number}/")
        assert arrives(lambda: service.ask("GET", f"attachments/{number}/").status_code, 404)


@pytest.mark.parametrize("argument", ["silence", {"code": 504}, [504]])
def test_an_answer_that_is_none_is_refused(running: Sandbox, argument: object) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        running.faults({"action": "lost", "argument": argument})
