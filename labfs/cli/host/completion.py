"""`labfs completion`: what a shell needs to complete the command line.

Tests: mount/test_host.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the path of a file; unlike click.Path it has labfs look at none, which could hang."""
    return [CompletionItem(incomplete, type="file")]


def directories(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the path of a directory."""
    return [CompletionItem(incomplete, type="dir")]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes commands and options of labfs.

    \b
    bash:  labfs completion bash > ~/.local/share/bash-completion/completions/labfs
    zsh:   labfs completion zsh > DIR/_labfs, with DIR in $fpath before compinit runs
    fish:  labfs completion fish > ~/.config/fish/completions/labfs.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "labfs", "_LABFS_COMPLETE").source())
