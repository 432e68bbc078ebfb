"""`ztun doctor`: is this node fit for ztun, and is all well that runs? Without an agent, too; exit 1: it is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from agent import config
from agent.admin.client import AgentAbsent, AgentRefused
from agent.cli import output as out
from agent.cli.output import CliError, Row
from agent.cli.which import Which, which_agent
from agent.doctor.check import Check, Verdict
from agent.doctor.examination import NAMES, examine
from agent.doctor.flow import Flow, Step, explain_flow
from agent.doctor.of_pod import explain_pod
from agent.doctor.site import CNI_CONF_DIR, Agent, Site
from redirect.errors import RedirectError

ASKED = (
    "xds_address",
    "root_cert",
    "server_name",
    "token_file",
    "admin_address",
    "metrics_address",
    "readiness_address",
)
"""Options of the agent that a doctor takes too: those that one would be started with."""
INDENT = "  "
HIDDEN = "(PEM, given in place of a path)"


def complete_check(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in NAMES if name.startswith(incomplete)]


def with_asked(command: Any) -> Any:
    for name in reversed(ASKED):
        row = config.options()[name]
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar="NAME" if row.kind.metavar == "TEXT" else row.kind.metavar,
            help=f"As of `ztun agent`: {row.help}",
        )(command)
    return command


@click.command()
@which_agent
@click.option(
    "--pod",
    metavar="NAMESPACE/NAME",
    help="Say of this pod what becomes of its connections, in place of the checks.",
)
@click.option(
    "--flow",
    metavar="SRC[:PORT]-DST:PORT",
    help="Say what becomes of this connection, in place of the checks.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_check,
    help="Make this check, and others that are named so.",
)
@with_asked
@out.output_option
def doctor(
    which: Which, pod: str | None, flow: str | None, only: Sequence[str], output: str, **flags: str | None
) -> None:
    """Look whether this node is fit for ztun.

    And whether all is well that runs. Each check has a verdict (ok, warning, failed, cannot tell) and, where something
    is wrong, a remedy. Nothing is changed. The exit status is 1 when a check has failed.
    """
    site = site_of(which, flags)
    if pod is not None or flow is not None:
        if pod is not None and flow is not None:
            raise click.UsageError("--pod and --flow are two questions: ask one")
        tell(told(site, pod, flow), output)
        return
    unknown = [name for name in only if name not in NAMES]
    if unknown:
        raise click.UsageError(f"--only: there is no check {unknown[0]!r}; there are {', '.join(NAMES)}")
    checks = examine(site, only or NAMES, still=progress)
    if output == "json":
        out.show_json({"checks": [check_row(check) for check in checks]})
    else:
        width = out.columns_here()
        click.echo(
            out.sentences([check_row(check) for check in checks], ["check", "verdict", "words"], width)
        )
        for check in checks:
            if not check.is_fine and check.remedy:
                click.echo(remedy(check, width))
    sys.exit(any(check.verdict is Verdict.FAILED for check in checks))


def check_row(check: Check) -> dict[str, object]:
    return {
        "check": check.name,
        "looked_at": check.looked_at,
        "verdict": check.verdict.value,
        "words": check.words,
        "remedy": check.remedy,
        "command": check.command,
    }


def remedy(check: Check, width: int) -> str:
    """What to do. A command has a line of its own and is never folded, so that it can be copied."""
    lines = out.folded(f"{check.name}: {check.remedy}{':' if check.command else ''}", width, INDENT)
    return "\n".join([*lines, *([INDENT + check.command] if check.command else [])])


def told(site: Site, pod: str | None, flow: str | None) -> list[Step]:
    try:
        if flow is not None:
            return explain_flow(site, Flow.parse(flow))
        return explain_pod(site, pod or "")
    except ValueError as error:
        raise click.UsageError(f"--flow: {error}") from error
    except LookupError as error:
        raise CliError(str(error.args[0])) from error
    except (RedirectError, OSError) as error:
        raise CliError(f"the pinned maps cannot be read: {error}") from error


def tell(steps: Sequence[Step], output: str) -> None:
    is_table = output != "json"
    rows: list[Row] = [
        {
            "where": each.where,
            "verdict": each.verdict.value,
            "words": ", unless ".join((each.words, *(() if is_table else each.unless))),
        }
        for each in steps
    ]
    if is_table:
        width = out.columns_here()
        click.echo(out.sentences(rows, ["where", "verdict", "words"], width))
        for unless in dict.fromkeys(text for each in steps for text in each.unless):
            stations = [each.where for each in steps if unless in each.unless]
            click.echo("\n".join(out.folded(f"{', '.join(stations)}: unless {unless}", width, INDENT)))
    else:
        out.show("steps", rows, output)
    sys.exit(any(step.verdict is Verdict.FAILED for step in steps))


def progress(left: Sequence[str]) -> None:
    click.echo(f"still looking at: {', '.join(left)}", err=True)


def site_of(which: Which, flags: dict[str, str | None]) -> Site:
    """With the options of the agent that runs, where one does; those that are given here go before them."""
    agent = Agent(which.socket)
    given = {name: text for name, text in flags.items() if text is not None}
    try:
        running = agent.page("/settings")["settings"]
    except (AgentAbsent, AgentRefused):
        running = {}
    known = {name: text for name, text in running.items() if name in config.options() and text != HIDDEN}
    try:
        settings = config.build(known | given) if known else config.from_environment(given)
    except config.ConfigError as error:
        raise click.UsageError(str(error)) from error
    cni_dir = settings.cni_conf_dir if str(settings.cni_conf_dir) != "." else CNI_CONF_DIR
    return Site(which.instance, Path(which.directory), settings, agent, cni_dir, netns=which.netns)
