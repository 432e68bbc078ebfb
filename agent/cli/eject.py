"""`ztun eject`: takes captured pods out of the mesh by the kernel alone, with every ztun process stopped or dead."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli import system_log
from agent.cli.bypass import glass
from agent.cli.output import CliError
from agent.cli.which import Which, which_agent
from redirect import break_glass
from redirect.reconcile import Redirection

PATIENCE_S = 2.0
"""An agent that does not answer that long is taken for one that is stopped."""


@click.command()
@click.argument("pods", nargs=-1, metavar="[POD]...")
@click.option("--node", "is_node", is_flag=True, help="All pods of this node.")
@click.option("--reason", metavar="WHY", help="Why: it is logged with who did it.")
@which_agent
def eject(which: Which, pods: Sequence[str], is_node: bool, reason: str | None) -> None:
    """Take pods out of the mesh without an agent.

    They are in clear until one runs again.

    POD is NAMESPACE/NAME, an address or the interface on this node, of one that is closed off too. Its connections are
    reset, and its programs taken off. An agent that answers is to be asked by `ztun unenroll`: it would capture the pod
    again at once; so will the next one.
    """
    if bool(pods) == is_node:
        raise click.UsageError("name the pods, or say --node")
    why = out.one_line(reason or "")
    if not why:
        raise click.UsageError("say why: --reason TEXT")
    refuse_running(which)
    with glass(which) as maps:
        known = break_glass.targets(maps)
        chosen = list(known.values()) if is_node else [break_glass.find(known, pod) for pod in pods]
        with closing(Redirection(which.instance, which.run_dir)) as redirection:
            outcome = redirection.eject([target.ifindex for target in chosen])
    failed = {failure.ifindex: failure for failure in outcome.failures}
    for target in chosen:
        if target.ifindex not in failed:
            line = f"{target.name}: out of the mesh, in clear until an agent runs again"
            click.echo(line)
            click.echo(system_log.note(f"eject of {line}, by {system_log.caller()}: {why}"))
    if failed:
        raise CliError("; ".join(map(str, failed.values())))
    if not chosen:
        click.echo("no pod is captured")


def refuse_running(which: Which) -> None:
    try:
        client.ask(which.socket, "GET", "/status", patience_s=PATIENCE_S)
    except client.AgentAbsent:
        return
    raise CliError(
        "the agent runs and would capture them again at once: `ztun unenroll POD` has it let go of a pod, "
        "`ztun bypass` lets one speak in clear for a while"
    )
