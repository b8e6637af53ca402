"""One does it, many wait."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from labfs.errors import Invalid, Unanswered, again, ungrouped
from labfs.read.flight import Flight


async def test_whoever_waits_gets_the_failure_for_himself_with_all_that_is_known_of_it() -> None:
    flight, caught = Flight(), []

    async def wait() -> None:
        with pytest.raises(Unanswered, match="silent") as told:
            await flight.wait()
        caught.append(told.value)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(wait)
        with flight.outcome():
            await trio.lowlevel.checkpoint()
            raise Unanswered("It fell silent.", lost=False, silent=True, retry_after_s=3.0, who="hub")
    assert caught[0] is not caught[1]
    assert {(each.lost, each.silent, each.retry_after_s, each.who) for each in caught} == {(False, True, 3.0, "hub")}
    assert {each.__cause__ for each in caught} == {flight.error}


async def test_what_went_well_is_no_error_also_afterwards() -> None:
    flight = Flight()
    with flight.outcome():
        pass
    await flight.wait()


def test_a_mistake_is_raised_as_it_is() -> None:
    mistake = ValueError("none of ours")
    assert again(mistake) is mistake


def test_of_several_errors_a_known_one_tells_what_went_wrong() -> None:
    known = Invalid("That is no name.")
    assert ungrouped(ExceptionGroup("", [ValueError(), ExceptionGroup("", [known])])) is known
    mistake = ValueError()
    assert ungrouped(ExceptionGroup("", [mistake])) is mistake
