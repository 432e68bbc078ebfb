"""The `ztun` command line: finds the command, loads only its file, and turns errors into one line.

Every failure that a user can cause ends as `ztun: what failed; what to check` on stderr and a non-zero
status; a traceback means a defect.
"""

from __future__ import annotations

import importlib
import sys

import click

from agent import VERSION
from agent.admin.client import AgentAbsent, AgentRefused
from agent.config import quiet_grpc

COMMANDS = {
    "agent": "agent.cli.agent:agent",
    "control-plane": "agent.cli.control_plane:control_plane",
    "enroll": "agent.cli.enroll:enroll",
    "unenroll": "agent.cli.enroll:unenroll",
    "status": "agent.cli.status:status",
    "maps": "agent.cli.maps:maps",
    "lab": "agent.cli.lab:lab",
    "uninstall": "agent.cli.uninstall:uninstall",
}


class LazyGroup(click.Group):
    """Loads a command's module when it is named, so that `ztun maps` never pays for gRPC."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="ztun")
def ztun() -> None:
    """An eBPF node agent for an ambient service mesh."""


def main() -> None:
    """The console script."""
    quiet_grpc()
    try:
        ztun.main(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        click.echo(f"ztun: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except AgentRefused as error:
        click.echo(f"ztun: {error}", err=True)
        sys.exit(1)
    except AgentAbsent as error:
        click.echo(f"ztun: {error}", err=True)
        sys.exit(4)
    except (click.Abort, KeyboardInterrupt):
        click.echo("ztun: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
