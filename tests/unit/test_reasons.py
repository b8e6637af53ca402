"""Reasons of failures: found from below, dropped once they have passed, and not displaced by what is usual."""

from __future__ import annotations

import time

from labfs.errors import Invalid, NotFound, NotPermitted, Unauthorized, Unavailable
from labfs.errors.reasons import KEPT, Reasons


def told(reasons: Reasons, path: str) -> str | None:
    found = reasons.about(path)
    return None if found is None else found.sentence.removesuffix(f" {Unavailable.remedy}")


def test_a_folder_that_cannot_be_listed_explains_what_is_below_it() -> None:
    reasons = Reasons()
    reasons.record("/hub/p", Unauthorized("No token."), "opendir")
    assert told(reasons, "/hub/p/r/f") == "No token."
    assert told(reasons, "/hub/q") is None
    reasons.record("/hub/p/r", NotPermitted("It cannot be renamed."), "rename")
    assert told(reasons, "/hub/p/r") == "It cannot be renamed."
    assert told(reasons, "/hub/p/r/f") == "No token.", "that a folder cannot be renamed explains no file in it"


def test_of_several_folders_that_fail_the_latest_counts() -> None:
    reasons = Reasons()
    reasons.record("/hub/p/r", NotPermitted("Not listed."), "lookup")
    reasons.record("/hub/p/r/f", NotFound("There is none."), "lookup", usual=True)
    reasons.record("/hub/p", Unauthorized("No token."), "lookup")
    assert told(reasons, "/hub/p/r/f") == "No token."
    reasons.record("/hub/p/r/f", Invalid("Not saved."))
    reasons.record("/hub/p", Unauthorized("No token."), "lookup")
    assert told(reasons, "/hub/p/r/f") == "Not saved.", "its own"
    assert [reason.path for reason in reasons.inside("/hub/p/r")] == ["/hub/p/r/f"]


def test_what_has_passed_is_dropped_and_nothing_else() -> None:
    reasons = Reasons()
    reasons.record("/hub/p", Unavailable("Away."), "opendir")
    reasons.record("/hub/p/f", Unavailable("Away, too."), "lookup")
    reasons.record("/hub/p/g", NotPermitted("Not deleted."), "unlink")
    reasons.passed("/hub/p", "getattr")
    assert told(reasons, "/hub/p") == "Away.", "its attributes are in memory"
    reasons.passed("/hub/p", "opendir")
    assert [told(reasons, path) for path in ("/hub/p", "/hub/p/f", "/hub/p/g")] == [None, None, "Not deleted."]
    reasons.record("/hub/p/f", Invalid("Not saved."))
    for request in ("lookup", "open", "read", "write", "flush", "release"):
        reasons.passed("/hub/p/f", request)
    assert told(reasons, "/hub/p/f") == "Not saved."
    reasons.forget("/hub/p/f")
    assert told(reasons, "/hub/p/f") is None


def test_a_site_that_answers_again_takes_its_own_reasons_along() -> None:
    reasons = Reasons()
    reasons.record("/hub/p", Unavailable("Silent.", silent=True), "opendir")
    reasons.record("/hub/q", Unavailable("503."), "opendir")
    reasons.record("/hub/f", Unavailable("Silent, too.", silent=True))
    reasons.record("/lims/p", Unauthorized("No token."), "opendir")
    reasons.record("/hub/g", Unauthorized("Refused."), "flush")
    reasons.recovered("hub", time.monotonic() - 60)
    assert told(reasons, "/hub/p") == "Silent.", "it answered before that"
    reasons.recovered("hub", time.monotonic() + 1)
    assert told(reasons, "/hub/p") is None
    assert told(reasons, "/hub/q") == "503.", "the site was there, and this is still so"
    assert told(reasons, "/hub/f") == "Silent, too.", "that save has still not arrived"
    assert told(reasons, "/hub/g") == "Refused.", "nor has this one"
    assert told(reasons, "/lims/p") == "No token."


def test_names_that_programs_try_displace_nothing() -> None:
    reasons, heard = Reasons(), []
    reasons.heard = heard.append
    reasons.record("/hub/p", NotPermitted("Not deleted."), "unlink")
    for number in range(2 * KEPT):
        reasons.record(f"/hub/p/{number}", NotFound("There is none."), "lookup", usual=True)
    reasons.record("/hub/p", NotFound("There is none."), "lookup", usual=True)
    assert told(reasons, "/hub/p") == "Not deleted."
    assert told(reasons, f"/hub/p/{2 * KEPT - 1}/below") == "There is none."
    assert [reason.path for reason in reasons.latest()] == ["/hub/p"]
    assert [reason.path for reason in heard] == ["/hub/p"]
