"""`ztun agent`: the control process of a node. Its flags come from the table of agent.config, in its sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from agent import config
from agent.cli.becoming import become_agent
from agent.given_options import settings_of


class SectionedCommand(click.Command):
    """Lists the options under the headings of the table."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        table = config.options()
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                row = table.get(parameter.name or "")
                sections.setdefault(row.section if row is not None else "Help", []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """One click option for each row of the table."""
    for name, row in reversed(list(config.options().items())):
        default = f"  [default: {row.default}]" if row.default else ""
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            help=f"{row.help}{default}  (ZTUN_{name.upper()})",
            metavar=row.kind.metavar,
        )(command)
    return command


@click.command(cls=SectionedCommand)
@with_options
def agent(**flags: Any) -> None:
    """Run the agent of this node.

    It captures the node's enrolled pods and serves them until SIGTERM. Each flag is also the variable in brackets
    behind it; a flag wins.
    """
    try:
        settings = settings_of(flags)
    except config.ConfigError as error:
        raise click.UsageError(str(error)) from error
    go_on(settings)


def go_on(settings: config.Config, notes: Sequence[str] = ()) -> NoReturn:
    """Become the agent; `notes` are for its log."""
    try:
        become_agent(settings, notes)
    except OSError as error:
        raise click.ClickException(f"the agent's interpreter does not start: {error}") from error
