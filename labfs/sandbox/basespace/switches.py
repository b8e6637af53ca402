"""What no source settles about the service, each with the variant that is likelier.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

from dataclasses import dataclass

from labfs.sandbox.cost import Cost


@dataclass(slots=True)
class Switches(Cost):
    """Times are in seconds. A word in quotes lists the variants that there are."""

    # ids and dates
    ids: str = "blocks"  # of several allocators; or "growing", or "swapped": see `ids.py`
    date_digits: int = 0  # of a second, 7 at most; `Expires` has all of them

    # lists
    default_limit: int = 10
    over_limit: str = "clamp"  # or "refuse"
    sort_ignored: bool = False
    short_pages: int = 0  # items in a page at most; 0 for no such limit
    statuses_ignored: bool = False
    pending_listed: bool = False  # where no `Statuses` are asked for
    sample_sessions: bool = False  # samples in lists carry their AppSession
    property_types: str = "lower"  # or "sent": as the client wrote them

    # the second version
    v2: str = "on"  # or "absent", "forbidden", "down"
    v2_joined: bool = True  # datasets say which record of the first version they are

    # making and saving
    created_status: int = 201  # of a project, a record and a simple upload
    same_path: str = "duplicate"  # or "replace" or "conflict"
    empty_upload: str = "refuse"  # or "accept"
    after_complete_status: int = 403
    bad_md5_status: int = 400

    # the bytes
    redirect_status: int = 302  # of a file's content
    url_life_s: float = 7 * 24 * 3600.0
    blob_tokens: str = "ignore"  # or "refuse": x-access-token or access_token sent along to the blob origin
    kms: bool | str = False  # what is stored gets tags that look like an MD5 and are none; "silent": unannounced
