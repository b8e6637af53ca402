"""The pages of the manual: where they are, and what is filled into them.

Tests: unit/test_manual.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

import click

from labfs.cli.host.helper import helper
from labfs.cli.manual import reference
from labfs.errors import ended

HEADING = re.compile(r"# (?P<name>[\w.-]+)\((?P<section>\d)\): (?P<title>.+)\n+")
FILLED = re.compile(r"\{\{([\w-]+)(?: (\w+))?\}\}")
FIRST = "labfs"
CLI, BACKENDS = files("labfs.cli"), files("labfs.backends")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its name and section as a man page has them, its title, and its Markdown below the heading."""

    name: str
    section: int
    title: str
    text: str

    @property
    def called(self) -> str:
        """What a person types for it: `errors` for labfs-errors."""
        return re.sub(r"^labfs[-.]", "", self.name)

    @property
    def reference(self) -> str:
        return f"{self.name}({self.section})"


def pages(group: click.Group) -> list[Page]:
    """Return all pages in the order of their sections and names; `group` is the command line."""
    sources = [*CLI.joinpath("manual", "pages").iterdir(), *(each / "MANUAL.md" for each in BACKENDS.iterdir())]
    found = [
        page(each.read_text(encoding="utf-8"), group)
        for each in sources
        if each.name.endswith(".md") and each.is_file()
    ]
    return sorted(found, key=lambda page: (page.section, page.name))


def page(source: str, group: click.Group) -> Page:
    """Return a page from its source, with all that is to be filled in."""
    heading = HEADING.match(source)
    assert heading is not None, source[:40]
    text = FILLED.sub(lambda match: _filling(match[1], match[2], group), source[heading.end() :])
    return Page(heading["name"], int(heading["section"]), heading["title"], text)


def _filling(what: str, of: str | None, group: click.Group) -> str:
    match what:
        case "commands":
            return reference.commands(group, FIRST)
        case "helper":
            return reference.command(helper, click.Context(helper, info_name=helper.name))
        case "cannot":
            told = _listed(rf"^\* \*\*{of}\*\*: (.+?)(?=^\* |\n\n)")
            return told[0].upper() + told[1:]
        case "shown":
            shown, hidden = (_listed(rf"^\| {of} \| {cells} \|$") for cells in (r"(.+?) \| .+?", r".+? \| (.+?)"))
            return f"Shown: {ended(shown)} Not shown: {ended(hidden)}"
        case "scripts":
            return CLI.joinpath("README.md").read_text(encoding="utf-8").partition("\n")[2]
    return section(what)


def _systems() -> str:
    return BACKENDS.joinpath("README.md").read_text(encoding="utf-8")


def _listed(pattern: str) -> str:
    """Return what the systems' README says of one system."""
    found = re.search(pattern, _systems(), re.MULTILINE | re.DOTALL)
    assert found is not None, pattern
    return " ".join(found[1].split())


def section(word: str) -> str:
    """Return the section of the systems' README whose heading has a word in it, without that heading."""
    for part in re.split(r"^##? ", _systems(), flags=re.MULTILINE):
        heading, _, text = part.partition("\n")
        if word in heading.lower():
            return text.strip()
    raise AssertionError(f"The systems' README has no section about {word}.")
