"""`ztun audit`: desired against the kernel, in words. Exit 0: nothing differs, 1: something does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli.output import CliError
from agent.cli.which import Which, which_agent

PATIENCE_S = 5.0
"""An agent that does not answer that long is not waited for: the kernel is there."""
COLUMNS = ("part", "pod", "interface", "reason", "remedy")


@click.command()
@which_agent
@out.output_option
def audit(which: Which, output: str) -> None:
    """Show where the kernel differs from what is desired.

    Compared are interfaces and programs with their order, links, pins and maps, the private namespaces with their
    devices, addresses, routes, rules and settings, lookups and listeners. Desired is what the agent wants; where none
    answers, what the maps say that the last one wanted. Nothing is changed: an agent makes good what it finds within
    two seconds. Exit status 1 where something differs.
    """
    try:
        answer = client.ask(which.socket, "GET", "/audit", patience_s=PATIENCE_S)
    except client.AgentAbsent:
        answer = of_maps(which)
    if output == "json":
        out.show_json(answer)
    else:
        show(answer)
    if answer["drift"]:
        sys.exit(1)


def show(answer: Mapping[str, Any]) -> None:
    asked = "the agent wants" if answer["desired_by"] == "agent" else "the maps say (no agent answers)"
    if answer["drift"]:
        out.show_table(answer["drift"], COLUMNS)
    ahead = [hook for hook in answer["hooks"] if any(not each["is_ours"] for each in hook["programs"])]
    for hook in ahead:
        order = ", ".join(words(each) for each in hook["programs"])
        click.echo(f"{hook['interface']} {hook['hook']}, in this order: {order}")
    number = len(answer["drift"])
    said = (
        "nothing differs" if not number else f"{number} {'thing differs' if number == 1 else 'things differ'}"
    )
    click.echo(f"{said} from what {asked}; captured interfaces: {answer['interfaces']}")


def words(program: Mapping[str, Any]) -> str:
    whose = "ours" if program["is_ours"] else "somebody else's"
    number = f" {program['id']}" if program["id"] else ""
    return f"{program['name'] or 'program'}{number} ({whose}, {program['by']})"


def with_ejected(report: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A row more for each pod that only the wishes know of: the maps have forgotten it."""
    remedy = "start the agent, which captures what is enrolled"
    rows = []
    for line in words:
        pod, _, reason = line.partition(": ")
        row = {"part": "pod", "pod": pod, "interface": "", "reason": reason}
        rows.append({**row, "remedy": remedy, "is_mendable": True})
    return {**report, "drift": [*report["drift"], *rows]}


def of_maps(which: Which) -> dict[str, Any]:
    """Without an agent. Raises CliError."""
    if os.geteuid() != 0:
        raise CliError("no agent answers, and what is pinned may be read by root only: run this as root")
    # Only here: an agent that answers has done it all.
    from agent.cli.pinned import open_maps
    from agent.doctor.without_agent import ejected_words
    from redirect import audit as audited
    from redirect.errors import RedirectError
    from redirect.reconcile import Redirection
    from redirect.side_check import require_here

    try:
        require_here(which.instance)
        with closing(Redirection(which.instance, which.run_dir)) as redirection:
            with open_maps(which.instance, which.run_dir) as maps:
                words = ejected_words(which.directory, maps)
            return with_ejected(audited.by_maps(redirection), words)
    except (RedirectError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
