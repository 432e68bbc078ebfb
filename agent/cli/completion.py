"""`ztun completion`: the script by which a shell completes commands, options and names of maps."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_ZTUN_COMPLETE"
"""By which the script asks `ztun` for completions; click's name for it."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    For bash: eval "$(ztun completion bash)" in ~/.bashrc, zsh the same in ~/.zshrc. For fish:
    ztun completion fish > ~/.config/fish/completions/ztun.fish
    """
    found = get_completion_class(shell)
    assert found is not None, f"click knows {shell}"
    click.echo(found(context.find_root().command, {}, "ztun", VARIABLE).source())
