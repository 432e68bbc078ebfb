"""`ztun proxy`: the agent as Istio's ztunnel DaemonSet starts it (docs/ZTUNNEL-DROP-IN.md)."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from agent import config
from agent.cli.agent import go_on
from agent.cli.output import CliError
from agent.ztunnel.draft import Surroundings
from agent.ztunnel.translate import MESH_CONFIG, CannotServe, Translation, translate


@click.command()
@click.argument(
    "kind", required=False, type=click.Choice(["ztunnel"]), default="ztunnel", metavar="[ztunnel]"
)
@click.option("--show", is_flag=True, help="Print what becomes of the environment, and run nothing.")
def proxy(kind: str, show: bool) -> None:
    """Run the agent of this node by the environment of ztunnel.

    The arguments, variables and files of Istio's ztunnel DaemonSet mean here what they mean there; what has no
    effect is logged once by its name, what cannot be honoured is refused. A variable ZTUN_OPTION goes before all.
    """
    environ = config.environment()
    try:
        found = translate(environ, _surroundings())
        settings = config.from_environment({}, {**variables(found), **environ})
    except (CannotServe, config.ConfigError) as error:
        raise CliError(str(error)) from error
    if show:
        effective = config.as_texts(settings)
        for name in sorted(found.options):
            click.echo(f"--{name.replace('_', '-')} {shlex.quote(effective[name])}")
        for note in found.notes:
            click.echo(note)
        return
    go_on(settings, found.notes)


def variables(found: Translation) -> dict[str, str]:
    """The options as `ztun agent` takes them from its environment."""
    return {f"ZTUN_{name.upper()}": text for name, text in found.options.items()}


def _surroundings() -> Surroundings:
    mesh_config = Path(MESH_CONFIG)
    return Surroundings(
        exists=lambda path: Path(path).exists(),
        cores=os.cpu_count() or 1,
        mesh_config=mesh_config.read_text() if mesh_config.exists() else None,
    )
