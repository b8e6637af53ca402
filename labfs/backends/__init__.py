"""Kind → how to build its backend: one explicit table, one row a system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from labfs.backend import Backend
from labfs.backends.common import DeviceFlow, Settings


@dataclass(frozen=True, slots=True)
class Kind:
    """One system: its module here, the secrets that it needs, and options by name with their values, the usual one
    first; an option without values takes any text.

    `projects` names the secrets that each project has of its own; such a site lists its projects by alias.
    """

    title: str
    module: str
    secrets: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    projects: tuple[str, ...] = ()
    api: tuple[str, ...] = ()  # paths below a site's url at which its API is, the longest first
    renewal: str = ""  # where a person gets a new credential, as a sentence
    device: bool = False  # a person can allow a token on a page of the system's

    def build(self, settings: Settings) -> Backend:
        """Make a site's backend; must be called where trio runs.

        Its folder is imported only now: a command line checks a configuration, and would wait half a second for
        HTTP libraries that it does not use.
        """
        backend: Backend = import_module(f"{__name__}.{self.module}.backend").build(settings)
        return backend

    def device_flow(self, settings: Settings, client_id: str, client_secret: str) -> DeviceFlow:
        flow: DeviceFlow = import_module(f"{__name__}.{self.module}.device").build(settings, client_id, client_secret)
        return flow


KINDS: dict[str, Kind] = {
    "basespace": Kind(
        "Illumina BaseSpace Sequence Hub",
        "basespace",
        ("token",),
        api=("v1pre3", "v2"),
        renewal="A new token is made at developer.basespace.illumina.com (My Apps, Credentials of an app), or by the"
        " vendor's program bs, which keeps it as accessToken in ~/.basespace/default.cfg.",
        device=True,
    ),
    "clarity": Kind(
        "Illumina Clarity LIMS",
        "clarity",
        ("username", "password"),
        api=("api/v2", "api"),
        renewal="The administrator of the LIMS sets passwords, and lets a role sign in to the API.",
    ),
    "odm": Kind(
        "Genestack Open Data Manager",
        "odm",
        ("token",),
        {"audience": ("as-curator", "as-user"), "sign_in": ("token", "bearer")},
        api=("api/v1",),
        renewal="A new token is made on the profile page of its web interface.",
    ),
    "portal": Kind(
        "ALSF Resources Portal",
        "portal",
        ("token",),
        {"organizations": ("mine", "all"), "user_id": ()},
        api=("v1",),
        renewal="A token is good for 26 weeks; signing in to the portal with ORCID gives a new one.",
    ),
    "redcap": Kind(
        "REDCap",
        "redcap",
        (),
        projects=("token",),
        renewal="Each project has a page API in its web interface, which shows the token and makes a new one.",
    ),
}
