"""Markdown → pages for a browser, one file each, without scripts or anything from elsewhere.

Tests: unit/test_manual.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from markdown_it import MarkdownIt

from labfs.cli.manual.pages import FIRST, Page

STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem;
  display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 2rem; }
nav ul { list-style: none; padding: 0; position: sticky; top: 1rem; }
nav [aria-current] { font-weight: bold; }
code, pre { font: 0.9em/1.4 ui-monospace, monospace; background: color-mix(in srgb, currentColor 8%, transparent); }
code { padding: 0.1em 0.25em; } pre { padding: 0.75em; overflow-x: auto; } pre code { padding: 0; background: none; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding: 0.3em 0.6em;
  text-align: left; vertical-align: top; }
@media (max-width: 48rem) { body { display: block; } }
@media print { nav { display: none; } body { display: block; } }"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {title}</title>
<style>
{style}
</style>
</head>
<body>
<nav aria-label="Pages"><ul>
{links}
</ul></nav>
<main>
<h1>{name}: {title}</h1>
{body}
</main>
</body>
</html>
"""


def site(pages: Sequence[Page]) -> dict[str, str]:
    """Return the files of the manual, by name."""
    known = {page.reference: file(page) for page in pages}
    return {file(page): _written(page, pages, known) for page in pages}


def file(page: Page) -> str:
    return "index.html" if page.name == FIRST else f"{page.called}.html"


def _written(page: Page, pages: Sequence[Page], known: Mapping[str, str]) -> str:
    links = "\n".join(_link(other, here=other is page) for other in pages)
    return PAGE.format(
        name=escape(page.reference), title=escape(page.title), style=STYLE, links=links, body=_body(page.text, known)
    )


def _link(page: Page, *, here: bool) -> str:
    return f'<li><a href="{file(page)}"{" aria-current=page" if here else ""}>{escape(page.called)}</a></li>'


def _body(text: str, known: Mapping[str, str]) -> str:
    """Return a text as HTML; its headings can be linked to, and other pages that it names are links."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", anchor(inline.content))
    body: str = parser.renderer.render(tokens, parser.options, {})
    return re.sub(r"<strong>([\w.-]+\(\d\))</strong>", lambda match: _led(match[1], known), body)


def _led(reference: str, known: Mapping[str, str]) -> str:
    return f'<a href="{known[reference]}">{reference}</a>' if reference in known else f"<strong>{reference}</strong>"


def anchor(heading: str) -> str:
    return re.sub(r"[^\w]+", "-", heading.lower()).strip("-")
