"""`ztun agent`: the control process of a node. Its flags come from the table of agent.config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from agent import app, config


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """One click option for each row of the table."""
    for name, row in reversed(list(config.options().items())):
        flag = f"--{name.replace('_', '-')}"
        text = row.help + (f"  [{row.default}]" if row.default else "")
        command = click.option(flag, name, help=f"{text}  (ZTUN_{name.upper()})", metavar="VALUE")(command)
    return command


@click.command()
@with_options
def agent(**flags: Any) -> None:
    """Run the agent of this node: capture its enrolled pods and serve them."""
    try:
        built = config.from_environment(flags)
    except config.ConfigError as error:
        raise click.UsageError(str(error)) from error
    if not built.node:
        raise click.UsageError("--node is missing: the name of this node, as in spec.nodeName of its pods")
    try:
        app.run(built)
    except app.StartError as error:
        raise click.ClickException(str(error)) from error
