"""Looking for what a change made whose answer was lost, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from labfs.backends.looking import LONG_S, Change, Looking
from labfs.errors import Denied, LabfsError, Malformed, Unanswered, Unavailable

Clock = trio.testing.MockClock
LOST, FAILED = Unanswered("lost"), Unanswered("failed", lost=False)


class Service:
    """Carries out what is sent after so many seconds, None for never; `faults` are what it answers."""

    def __init__(self, *answers: tuple[float | None, LabfsError | None]) -> None:
        self.answers = list(answers)
        self.sent = 0
        self.looks = 0
        self.made: list[tuple[int, float]] = []
        self.blind: LabfsError | None = None

    async def send(self) -> int:
        after_s, error = self.answers.pop(0)
        self.sent += 1
        if after_s is not None:
            self.made.append((self.sent, trio.current_time() + after_s))
        if error is not None:
            raise error
        return self.sent

    def there(self) -> list[int]:
        return [number for number, at in self.made if at <= trio.current_time()]

    async def ours(self, began: Any) -> list[int]:
        self.looks += 1
        if self.blind is not None:
            raise self.blind
        return self.there()

    async def withdraw(self, number: int) -> None:
        self.made = [pair for pair in self.made if pair[0] != number]

    def change(self, mark: Any = None) -> Change[int]:
        return Change("f", None, self.send, self.ours, mark=mark, withdraw=self.withdraw)


@pytest.mark.parametrize("after_s", [0.0, 3.0, 29.0, 85.0])
@pytest.mark.parametrize("error", [LOST, Malformed("a page")])
async def test_what_comes_late_is_waited_for(after_s: float, error: LabfsError, autojump_clock: Clock) -> None:
    service = Service((after_s, error))
    assert await Looking().once(service.change()) == 1
    assert service.there() == [1]


async def test_what_the_service_failed_over_is_looked_for_briefly(autojump_clock: Clock) -> None:
    service = Service((None, FAILED), (0.0, None))
    assert await Looking().once(service.change()) == 2
    assert trio.current_time() < 2


async def test_pauses_are_those_of_the_site(autojump_clock: Clock) -> None:
    assert sum(Looking(1.0).long_s) == pytest.approx(sum(LONG_S) / 8)
    assert Looking(60.0).long_s == LONG_S


async def test_of_two_that_arrived_one_stays(autojump_clock: Clock) -> None:
    service = Service((90.5, LOST), (0.5, LOST))
    assert await Looking().once(service.change()) in (1, 2)
    assert len(service.made) == 1


async def test_of_two_that_arrived_the_one_that_was_answered_stays(autojump_clock: Clock) -> None:
    service = Service((90.0, LOST), (0.0, None))
    looking = Looking()
    looking.long_s = (1.0, 88.0)

    async def send() -> int:
        made = await Service.send(service)
        await trio.sleep(3)
        return made

    service.send = send  # type: ignore[method-assign]
    service.answers = [(90.0, None), (0.0, None)]

    async def first() -> int:
        made = await Service.send(service)
        if made == 1:
            raise LOST
        await trio.sleep(3)
        return made

    assert await looking.once(Change("f", None, first, service.ours, withdraw=service.withdraw)) == 2
    assert [number for number, _ in service.made] == [2]


async def test_nothing_is_sent_again_while_no_look_succeeds(autojump_clock: Clock) -> None:
    service = Service((None, LOST), (0.0, None))
    service.blind = Unavailable("down")
    with pytest.raises(Unanswered):
        await Looking().once(service.change())
    assert service.sent == 1


async def test_the_next_try_begins_with_a_look(autojump_clock: Clock) -> None:
    looking, service = Looking(), Service((0.0, LOST))
    service.blind = Unavailable("down")
    with pytest.raises(Unanswered):
        await looking.once(service.change())
    service.blind = None
    assert await looking.once(service.change()) == 1
    assert service.sent == 1


async def test_one_that_was_cancelled_is_waited_for_by_the_next_try(autojump_clock: Clock) -> None:
    looking, service = Looking(), Service((40.0, LOST), (0.0, None))
    with trio.move_on_after(17):
        await looking.once(service.change())
    assert await looking.once(service.change()) == 1
    assert service.sent == 1


async def test_other_bytes_do_not_wait_for_those_before(autojump_clock: Clock) -> None:
    looking, service = Looking(), Service((None, LOST), (0.0, None))
    with trio.move_on_after(5):
        await looking.once(service.change(mark="one"))
    before = trio.current_time()
    assert await looking.once(service.change(mark="two")) == 2
    assert trio.current_time() == before


async def test_a_refusal_is_final_and_no_doubt(autojump_clock: Clock) -> None:
    looking, service = Looking(), Service((None, Denied("no")), (0.0, None))
    with pytest.raises(Denied):
        await looking.once(service.change())
    assert await looking.once(service.change()) == 2
    assert service.looks == 0
