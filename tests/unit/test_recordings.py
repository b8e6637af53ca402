"""The recordings are whole: what they say was made, renamed and removed agrees with what is said of each name."""

from __future__ import annotations

import pytest
import recordings
from recordings import Recording

WORDS = {"kept", "scratch", "document", "unfinished", "left"}


@pytest.fixture(params=recordings.NAMES)
def recording(request: pytest.FixtureRequest) -> Recording:
    return recordings.read(request.param)


def test_there_are_enough() -> None:
    assert len(recordings.NAMES) >= 45


def test_every_name_that_was_made_has_a_truth(recording: Recording) -> None:
    assert recording.head["program"] and recording.head["command"]
    made = {event.makes for event in recording.events if event.makes}
    assert made - {"(elsewhere)", "(nameless)"} <= set(recording.truth)
    assert set(recording.truth) <= made
    assert {word for word in recording.truth.values() if "→" not in word} <= WORDS


def test_what_is_said_of_a_name_is_what_happened_to_it(recording: Recording) -> None:
    done = [event for event in recording.events if not event.failed]
    renamed = {event.words[:2] for event in done if event.call in ("rename", "link")}
    removed = {event.words[0] for event in done if event.call in ("unlink", "rmdir")}
    for path, word in recording.truth.items():
        if word.startswith("draft→"):
            assert (path, word.removeprefix("draft→")) in renamed
        elif word == "scratch":
            gone = path in removed or any(old == path for old, _ in renamed)
            assert gone, path


def test_what_is_kept_is_there_in_the_end(recording: Recording) -> None:
    there = set(recording.before)
    for event in recording.events:
        if not event.failed:
            if event.call in ("unlink", "rmdir"):
                there.discard(event.words[0])
            if event.makes:
                there.add(event.makes)
    assert {path for path, word in recording.truth.items() if word != "scratch" and "→" not in word} <= there


def test_every_open_file_is_closed(recording: Recording) -> None:
    opened = [event.handle for event in recording.events if event.call == "open" and not event.failed]
    closed = [event.handle for event in recording.events if event.call == "close" and "last" in event.words]
    assert sorted(opened) == sorted(closed)
    for event, held in recording.held():
        if event.call in ("write", "pwrite"):
            assert event.handle in held[event.process], event
