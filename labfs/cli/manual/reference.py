"""The command line as Markdown, from the commands themselves, so that the manual cannot differ from them.

Tests: unit/test_manual.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

VERBATIM = "\b"  # begins a paragraph of a help text that click does not wrap


def commands(group: click.Group, name: str) -> str:
    """Return the commands of a group, and of the groups in it, in the order of their names."""
    return "\n\n".join(_group(group, click.Context(group, info_name=name)))


def _group(group: click.Group, context: click.Context) -> Iterator[str]:
    for called in group.list_commands(context):
        member = group.commands[called]
        inner = click.Context(member, info_name=called, parent=context)
        if isinstance(member, click.Group):
            yield from _group(member, inner)
        else:
            yield f"### {inner.command_path}\n\n{command(member, inner)}"


def command(member: click.Command, context: click.Context) -> str:
    """Return usage, help and options of one command."""
    usage = f"```\n{context.command_path} {' '.join(member.collect_usage_pieces(context))}\n```"
    return "\n\n".join([usage, *_paragraphs(member.help or ""), options(member, context)]).rstrip()


def options(member: click.Command, context: click.Context) -> str:
    """Return the options of a command as a list; the hidden ones are for labfs itself."""
    records = [each.get_help_record(context) for each in member.params if isinstance(each, click.Option)]
    return "\n".join(f"* `{names}`: {escaped(text)}" for names, text in filter(None, records))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith(VERBATIM):
            yield f"```\n{paragraph.removeprefix(VERBATIM).strip(chr(10))}\n```"
        else:
            yield escaped(paragraph)


def escaped(text: str) -> str:
    """Return a plain text so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_<\[])", r"\\\1", text)
