"""Kind → how to build its backend: one explicit table, one row a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from labfs.backend import Backend, Settings
from labfs.backends import basespace, clarity, odm, portal, redcap


@dataclass(frozen=True, slots=True)
class Kind:
    """One system: the secrets that it needs, and options by name with their values, the usual one first;
    an option without values takes any text.

    `projects` names the secrets that each project has of its own; such a site lists its projects by alias.
    """

    title: str
    build: Callable[[Settings], Backend]
    secrets: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    projects: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "basespace": Kind("Illumina BaseSpace Sequence Hub", basespace.build, ("token",)),
    "clarity": Kind("Illumina Clarity LIMS", clarity.build, ("username", "password")),
    "odm": Kind(
        "Genestack Open Data Manager",
        odm.build,
        ("token",),
        {"audience": ("as-curator", "as-user"), "sign_in": ("token", "bearer")},
    ),
    "portal": Kind(
        "ALSF Resources Portal",
        portal.build,
        ("token",),
        {"organizations": ("mine", "all"), "user_id": ()},
    ),
    "redcap": Kind("REDCap", redcap.build, (), projects=("token",)),
}
