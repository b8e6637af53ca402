"""Answers that do not tell the fate of an upload, in every system: it is there once, whether it came at once or late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from secrets import token_hex
from typing import Any

import pytest
import trio
from clarity_stage import SAMPLE, Clarity
from contract import Bytes, hurried, noise, poured
from odm_stage import EMPTY, quick
from portal_stage import ADA
from portal_stage import opened as portal_opened
from redcap_stage import opened as redcap_opened
from stage import Sandbox
from test_clarity_backend import opened as clarity_opened
from test_portal_backend import build as portal_build
from test_redcap_backend import build as redcap_build
from test_redcap_backend import field_of, page

from labfs.backend import Backend, Entry, Target
from labfs.backends import KINDS
from labfs.backends.common import Settings
from labfs.errors import LabfsError, Unavailable
from labfs.tree.scan import scan

UPLOADS = {"basespace": "*/files", "portal": "/v1/attachments/*", "odm": "*/multipart", "redcap": "*",
           "clarity": "*/files", "dataset": "*/file-upload-info"}  # fmt: skip
ANSWERS: list[Any] = ["reset", {"status": 504}, {"status": 502, "html": True}, {"status": 200, "html": True}]


class Place:
    """A directory of one system, what lists it, and the fault that meets the next upload to it."""

    def __init__(self, kind: str, backend: Backend, target: Target, listed: Entry, sandbox: Sandbox) -> None:
        self.kind = kind
        self.backend = backend
        self.target = target
        self._listed = listed
        self._sandbox = sandbox
        self.service = "basespace" if kind == "dataset" else kind

    def fault(self, action: str, argument: Any, also: Any = None) -> None:
        meets = {"service": self.service, "method": "POST", "route": UPLOADS[self.kind]}
        skip = 1 if self.kind == "redcap" else 0  # where all is a POST, a list comes first
        self._sandbox.faults({**meets, "skip": skip, "action": action, "argument": argument},
                             *([also] if also else []))  # fmt: skip

    def meet(self, fault: dict[str, Any]) -> None:
        self._sandbox.faults({"service": self.service, **fault})

    async def held(self) -> list[bytes]:
        """Return the bytes of all files of the target's name, versions counted."""
        found = [e for e in await scan(self.backend, self._listed) if not e.is_dir and e.name == self.target.name]
        found = [e for e in found if e.inside in (None, self.target.parent.id)]
        return [await poured(self, e) for e in found]  # type: ignore[arg-type]


async def place_of(kind: str, stack: ExitStack, sandbox: Sandbox) -> Place:
    if kind in ("basespace", "dataset"):
        backend: Any = KINDS["basespace"].build(
            Settings(name="hub", url=sandbox.url, secrets={"token": lambda: sandbox.token}, options={}, timeout_s=8.0)
        )
        made = "datasets" if kind == "dataset" else "appresults"
        record = listed = await backend.stat(f"{made}/{sandbox.fresh(made).record}")
    elif kind == "portal":
        service = stack.enter_context(portal_opened(sandbox))
        backend, team = portal_build(service), service.new_team(ADA)
        listed = await backend.stat(f"organizations/{team.number}")
        record = await backend.stat(f"organizations/{team.number}/materials/{team.material}")
    elif kind == "odm":
        odm = stack.enter_context(quick(sandbox))
        odm.clear(EMPTY)
        stack.callback(odm.clear, EMPTY)
        options = {"audience": "as-curator", "sign_in": "token"}
        secrets = {"token": lambda: odm.tokens["token"]}
        backend = KINDS[kind].build(Settings(name="odm", url=odm.url, secrets=secrets, options=options, timeout_s=8.0))
        record = listed = await backend.stat(f"studies/{EMPTY}")
        return Place(kind, hurried(backend), Target(record, ("Document",), "f"), listed, sandbox)
    elif kind == "field":
        redcap = stack.enter_context(redcap_opened(sandbox))
        backend, name = redcap_build(redcap), redcap.record()
        stack.callback(redcap.post, "biobank", content="record", action="delete", records=[name])
        record = await field_of(backend, "biobank", name, "counts")
        (listed,) = [e for e in await scan(backend, backend.root) if e.name == "biobank"]
        return Place("redcap", backend, Target(record, (), "f"), listed, sandbox)
    elif kind == "redcap":
        backend = redcap_build(stack.enter_context(redcap_opened(sandbox)))
        (shelf,) = [e for e in (await page(backend, "biobank")).entries if e.name == ".repository"]
        record = listed = await backend.make(shelf, f"Lost {token_hex(4)}")
    else:
        backend = clarity_opened(stack.enter_context(Clarity(sandbox)))
        record = listed = await backend.stat(f"samples/{SAMPLE}")
    return Place(kind, hurried(backend), Target(record, (), "f"), listed, sandbox)


@pytest.fixture(params=[*UPLOADS, "field"])
async def place(request: pytest.FixtureRequest, sandbox: Sandbox) -> AsyncIterator[Place]:
    with ExitStack() as stack:
        place = await place_of(request.param, stack, sandbox)
        yield place
        sandbox.faults()
        await place.backend.aclose()


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
async def test_an_upload_that_was_carried_out_is_not_sent_again(answer: Any, place: Place) -> None:
    place.fault("lost", answer)
    entry = await place.backend.upload(place.target, Bytes(noise(900)))
    assert await place.held() == [noise(900)]
    assert (entry.name, entry.size) == ("f", 900)


async def test_an_upload_that_is_carried_out_after_a_gateway_gave_up_is_waited_for(place: Place) -> None:
    place.fault("late", {"status": 504, "html": True, "after_s": 0.6})
    await place.backend.upload(place.target, Bytes(noise(900)))
    assert await place.held() == [noise(900)]


# In REDCap a look cannot be told from an upload by its method.
@pytest.mark.parametrize("place", ["basespace", "dataset", "clarity", "odm", "portal"], indirect=True)
async def test_an_upload_that_was_given_up_and_came_all_the_same_is_found_by_the_next_try(place: Place) -> None:
    place.backend.looking.long_s = (0.05,)  # type: ignore[attr-defined]
    # The look is refused as well, so that nobody knows; ODM lists what is there before it sends.
    look = {"service": place.service, "method": "GET", "action": "status", "argument": 403}
    place.fault("lost", {"status": 504}, also={**look, "skip": 1 if place.kind == "odm" else 0})
    with pytest.raises(LabfsError):
        await place.backend.upload(place.target, Bytes(noise(900)))
    await place.backend.upload(place.target, Bytes(noise(900)))
    assert await place.held() == [noise(900)]


async def test_a_job_that_goes_on_is_not_asked_for_other_bytes(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        place = await place_of("odm", stack, sandbox)
        odm = stack.enter_context(quick(sandbox))
        odm.switch(job_s=1.0)
        with monkeypatch.context() as patch:
            patch.setattr("labfs.backends.odm.imports.JOB_S", 0.2)
            with pytest.raises(Unavailable, match="still importing"):
                await place.backend.upload(place.target, Bytes(noise(900)))
        entry = await place.backend.upload(place.target, Bytes(noise(900)[::-1]))
        assert await poured(place, entry) == noise(900)[::-1]  # type: ignore[arg-type]
        await place.backend.aclose()


async def test_what_never_came_is_sent_again_once_it_was_looked_for(place: Place) -> None:
    place.fault("status", 504)
    await place.backend.upload(place.target, Bytes(noise(900)))
    assert await place.held() == [noise(900)]


async def test_of_two_uploads_that_arrived_one_is_taken_away(place: Place) -> None:
    place.backend.looking.long_s = (0.05,)  # type: ignore[attr-defined]
    skip = 2 if place.kind == "redcap" else 0  # of the second upload: the first is one of the two
    meets = {"service": place.service, "method": "POST", "route": UPLOADS[place.kind]}
    slow = {**meets, "skip": skip, "action": "delay_s", "argument": 1.0}
    place.fault("late", {"status": 504, "after_s": 0.4}, also=slow)
    entry = await place.backend.upload(place.target, Bytes(noise(900)))
    assert len(await place.held()) == (2 if place.service == "basespace" else 1), "which can delete nothing"
    assert await place.backend.stat(entry.id)


# -- other changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["clarity", "odm", "portal", "redcap"], indirect=True)
@pytest.mark.parametrize("action", ["lost", "late"])
async def test_a_deletion_whose_answer_was_lost_ends_as_one(action: str, place: Place) -> None:
    kept = await place.backend.upload(place.target, Bytes(b"kept"))
    entry = await place.backend.upload(place.target, Bytes(noise(900)))
    argument = {"status": 200, "html": True, "after_s": 0.4}
    method, skip = ("POST", 1) if place.kind == "redcap" else ("DELETE", 0)  # after the list of what is there
    place.meet({"method": method, "skip": skip, "action": action, "argument": argument})
    await place.backend.delete(entry)
    await place.backend.delete(entry)
    await trio.sleep(0.5)
    assert await place.held() == [b"kept"]
    assert (await place.backend.stat(kept.id)).id == kept.id


@pytest.mark.parametrize("place", ["portal"], indirect=True)
@pytest.mark.parametrize("action", ["lost", "late"])
async def test_a_rename_whose_answer_was_lost_is_not_repeated_after_another(action: str, place: Place) -> None:
    entry = await place.backend.upload(place.target, Bytes(noise(900)))
    argument = {"status": 504, "html": True, "after_s": 0.5}
    place.meet({"method": "PATCH", "action": action, "argument": argument})
    renamed = await place.backend.rename(entry, replace(place.target, name="g"))
    again = await place.backend.rename(renamed, replace(place.target, name="h"))
    await trio.sleep(0.6)
    assert (await place.backend.stat(again.id)).name == "h"


@pytest.mark.parametrize("place", ["redcap"], indirect=True)
@pytest.mark.parametrize("action", ["lost", "late"])
async def test_a_folder_whose_making_was_not_answered_is_made_once(action: str, place: Place) -> None:
    argument = {"status": 200, "html": True, "after_s": 0.4}
    place.meet({"method": "POST", "skip": 1, "action": action, "argument": argument})
    made = await place.backend.make(place.target.parent, "g")
    found = await scan(place.backend, place.target.parent)
    assert [(e.id, e.name) for e in found if e.is_dir] == [(made.id, "g")]


@pytest.mark.parametrize("place", ["clarity"], indirect=True)
@pytest.mark.parametrize("action", ["lost", "late"])
async def test_bytes_that_come_late_do_not_take_the_place_of_newer_ones(action: str, place: Place) -> None:
    entry = await place.backend.upload(place.target, Bytes(b"before"))
    argument = {"status": 504, "html": True, "after_s": 0.5}
    place.meet({"method": "POST", "route": "*/upload", "action": action, "argument": argument})
    saved = await place.backend.upload(replace(place.target, replaces=entry), Bytes(b"one"))
    await place.backend.upload(replace(place.target, replaces=saved), Bytes(b"two"))
    await trio.sleep(0.6)
    assert await place.held() == [b"two"]
