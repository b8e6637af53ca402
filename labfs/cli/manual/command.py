"""`labfs manual`: a page on the terminal, or all of them as man pages or for a browser.

Tests: unit/test_manual.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labfs import __version__
from labfs.errors import ConfigError

if TYPE_CHECKING:
    from labfs.cli.manual.pages import Page

INTO = click.Path(path_type=Path, file_okay=False)


def names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [page.called for page in _all(context) if page.called.startswith(incomplete)]


@click.command()
@click.option("--man", "man", type=INTO, help="Write man pages below this directory, such as ~/.local/share/man.")
@click.option("--html", "html", type=INTO, help="Write pages for a browser into this directory; begin with index.html.")
@click.argument("page", required=False, shell_complete=names)
@click.pass_context
def manual(context: click.Context, man: Path | None, html: Path | None, page: str | None) -> None:
    """Show a PAGE of the manual; without PAGE the list of them."""
    found = _all(context)
    if man:
        _write(man, _as_man(found))
    if html:
        from labfs.cli.manual import web

        _write(html, web.site(found))
    if page:
        _show(_named(page, found))
    elif not man and not html:
        for each in found:
            click.echo(f"{each.called:<16} {each.title}")
        click.echo("\nlabfs manual PAGE shows one of them; labfs COMMAND --help is the short way.")


def _all(context: click.Context) -> list[Page]:
    from labfs.cli.manual.pages import pages  # imported here: few commands read it

    group = context.find_root().command
    assert isinstance(group, click.Group)
    return pages(group)


def _named(name: str, found: list[Page]) -> Page:
    for page in found:
        if name in (page.called, page.name, page.reference):
            return page
    raise ConfigError(f"The manual has no page “{name}”; it has: {', '.join(page.called for page in found)}.")


def _show(page: Page) -> None:
    """Print a page: as Markdown, and on a terminal drawn, in the pager where it is longer than the screen."""
    text = f"# {page.reference}: {page.title}\n\n{page.text}"
    if not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=min(Console().width, 100))
    with console.capture() as drawn:
        console.print(Markdown(text))
    click.echo_via_pager(drawn.get(), color=True)


def _as_man(found: list[Page]) -> dict[str, str]:
    from labfs.cli.manual import roff

    return {
        f"man{page.section}/{page.name}.{page.section}": roff.written(
            page, [other for other in found if other is not page], __version__
        )
        for page in found
    }


def _write(directory: Path, texts: dict[str, str]) -> None:
    directory = directory.expanduser()
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    click.echo(f"{len(texts)} pages are in {directory}.")
