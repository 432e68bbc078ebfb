"""`ztun status`: is this node's agent well? One line, `-o table` with pods and VIPs, `-o json`; exit 0, 3 or 4."""

from __future__ import annotations

import json
import sys

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli.enroll import INSTANCE, RUN_DIR

EXIT_CODES = {"READY": 0, "DEGRADED": 3, "DEAD": 4}


@click.command()
@INSTANCE
@RUN_DIR
@click.option(
    "-o", "--output", type=click.Choice(["line", "table", "json"]), default="line", show_default=True
)
def status(instance: str, run_dir: str | None, output: str) -> None:
    """Show the agent's state: READY (exit 0), DEGRADED (3) or DEAD (4), and why."""
    try:
        answer = client.ask(client.socket_path(instance, run_dir), "GET", "/status")
    except client.AgentAbsent as error:
        if output == "json":
            click.echo(json.dumps({"state": "DEAD", "reasons": [str(error)]}))
        else:
            click.echo(f"DEAD {error}")
        sys.exit(EXIT_CODES["DEAD"])
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(answer["line"])
        for reason in answer["reasons"]:
            click.echo(f"  {reason}")
        for name, count in answer.get("log_lines_lost", {}).items():
            click.echo(f"  note: {count} lines of the {name} log were lost: its reader was too slow")
    if output == "table":
        out.show(
            answer["pods"], output, ["pod", "identity", "interface", "addresses"], empty="no pod is enrolled"
        )
        services = [{"service": name, "vips": vips} for name, vips in answer["services"].items()]
        out.show(services, output, empty="no Service is known")
    sys.exit(EXIT_CODES[answer["state"]])
