"""Markdown → a man page, in the macros of man(7) with tbl(1) for tables, which man-db, groff and mandoc all read.

Tests: unit/test_manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from labfs.cli.manual.pages import Page

SHORT = 24  # characters: a column of a table with longer ones may be wrapped
SPECIAL = {"\\": r"\e", "-": r"\-", "~": r"\(ti", "^": r"\(ha"}
IN_CODE = {"'": r"\(aq", "`": r"\(ga", '"': r"\(dq"}  # typewriter quotes, which prose has not


def written(page: Page, others: Iterable[Page], version: str) -> str:
    """Return a page as roff; `others` are the pages that its end leads to."""
    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(page.text))
    lines = [
        "'\\\" t",
        f'.TH "{escaped(page.name)}" "{page.section}" "" "labfs {version}" "labfs"',
        ".nr HY 0\n.nh\n.ad l",  # a name or an option that is hyphenated cannot be copied
        ".SH NAME",
        f"{escaped(page.name)} \\- {escaped(page.title)}",
        *([] if tree.children[0].type == "heading" else [".SH DESCRIPTION"]),
        *_blocks(tree.children),
        ".SH SEE ALSO",
        ",\n".join(f"\\fB{escaped(other.name)}\\fR({other.section})" for other in others),
    ]
    return "\n".join(lines) + "\n"


def _blocks(nodes: Sequence[SyntaxTreeNode]) -> Iterator[str]:
    for node in nodes:
        match node.type:
            case "heading":
                yield f".{'SH' if node.tag == 'h2' else 'SS'} {_inline(node)}"
            case "paragraph":
                yield f".PP\n{_inline(node)}"
            case "bullet_list" | "ordered_list":
                yield from _items(node)
            case "fence" | "code_block":
                yield f".PP\n.RS 4\n.EX\n{_lines(escaped(node.content.rstrip(), IN_CODE))}\n.EE\n.RE"
            case "table":
                yield _table(node)
            case other:
                raise ValueError(f"The manual has no {other}.")


def _items(node: SyntaxTreeNode) -> Iterator[str]:
    for number, item in enumerate(node.children, 1):
        yield r".IP \(bu 2" if node.type == "bullet_list" else f".IP {number}. 4"
        first, *rest = item.children
        yield _inline(first)
        if rest:
            yield from (".RS 2", *_blocks(rest), ".RE")


def _table(node: SyntaxTreeNode) -> str:
    rows = [[_inline(cell) for cell in row.children] for part in node.children for row in part.children]
    long = [max(len(cell) for cell in column) > SHORT for column in zip(*rows, strict=True)]
    formats = [" ".join(f"{kind}{'x' if wide else ''}" for wide in long) + "." * last
               for kind, last in (("lb", False), ("l", True))]  # fmt: skip
    body = ["\t".join(f"T{{\n{cell}\nT}}" if wide else cell for cell, wide in zip(row, long, strict=True))
            for row in rows]  # fmt: skip
    return "\n".join([".PP", ".TS", *formats, *body, ".TE"])


def _inline(node: SyntaxTreeNode) -> str:
    """Return the text of a block on lines of its own."""
    return _lines("".join(map(_span, node.children[0].children if node.children else ())))


def _span(node: SyntaxTreeNode) -> str:
    match node.type:
        case "text":
            return escaped(node.content)
        case "code_inline":
            return f"\\fB{escaped(node.content, IN_CODE)}\\fR"
        case "softbreak":
            return "\n"
    inner = "".join(map(_span, node.children))
    match node.type:
        case "strong":
            return f"\\fB{inner}\\fR"
        case "em":
            return f"\\fI{inner}\\fR"
        case "link":
            return inner
    raise ValueError(f"The manual has no {node.type}.")


def escaped(text: str, more: dict[str, str] | None = None) -> str:
    table = SPECIAL | (more or {})
    return "".join(table.get(letter, letter) for letter in text)


def _lines(text: str) -> str:
    """Return lines none of which roff takes for a request."""
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)
