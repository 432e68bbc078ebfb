"""The `ztun` command line: finds the command, loads only its file, and turns errors into one line.

Every failure that a user can cause ends as `ztun: what failed; what to check` on stderr and a non-zero
status; a traceback means a defect.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from agent import FORM, VERSION
from agent.admin.client import AgentAbsent, AgentRefused
from agent.cli.output import ERRORS_AS_JSON, CliError, one_line, show_json
from agent.cli.stdout import OutputLost, take_over

SECTIONS = {
    "Run": {
        "agent": "agent.cli.agent:agent",
        "proxy": "agent.cli.proxy:proxy",
        "control-plane": "agent.cli.control_plane:control_plane",
        "uninstall": "agent.cli.uninstall:uninstall",
        "cni": "agent.cli.cni:cni",
    },
    "Pods": {
        "enroll": "agent.cli.enroll:enroll",
        "unenroll": "agent.cli.enroll:unenroll",
        "pod-manifest": "agent.cli.pod_manifest:pod_manifest",
        "bypass": "agent.cli.bypass:bypass",
        "eject": "agent.cli.eject:eject",
    },
    "Look": {
        "status": "agent.cli.status:status",
        "audit": "agent.cli.audit:audit",
        "connections": "agent.cli.inspect:connections",
        "tunnels": "agent.cli.inspect:tunnels",
        "certificates": "agent.cli.inspect:certificates",
        "policies": "agent.cli.inspect:policies",
        "limits": "agent.cli.inspect:limits",
        "services": "agent.cli.inspect:services",
        "doctor": "agent.cli.doctor:doctor",
        "maps": "agent.cli.maps:maps",
        "trace": "agent.cli.trace:trace",
    },
    "Try": {
        "lab": "agent.cli.lab:lab",
    },
    "Shell": {
        "completion": "agent.cli.completion:completion",
    },
}
COMMANDS = {name: target for section in SECTIONS.values() for name, target in section.items()}


class LazyGroup(click.Group):
    """Loads a command's module when it is named, so that `ztun maps` never pays for gRPC."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return self.invoke_as_user(ctx)
        except (click.ClickException, AgentRefused, AgentAbsent) as error:
            if ctx.meta.get(ERRORS_AS_JSON) and not isinstance(error, OutputLost):
                show_json({"error": error.message if isinstance(error, click.ClickException) else str(error)})
            raise

    def invoke_as_user(self, ctx: click.Context) -> object:
        """Whatever a command looks at first may be root's alone; that is no defect of the command."""
        try:
            return super().invoke(ctx)
        except PermissionError as error:
            if os.geteuid() == 0:
                raise
            raise CliError(f"{error.filename} may be opened by root only: run this as root") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section, names in SECTIONS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None
                rows.append((name.ljust(width), command.get_short_help_str(formatter.width - width - 6)))
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="ztun", message=f"%(prog)s, version %(version)s ({FORM})")
def ztun() -> None:
    """An eBPF node agent for an ambient service mesh."""


def main() -> None:
    """Run the command that `sys.argv` names, and leave with its status."""
    take_over()
    stdout = sys.stdout
    try:
        # However it was started: errors and usage name the command as users know it.
        ztun.main(prog_name="ztun", standalone_mode=False)
    except SystemExit:
        # click meets a closed pipe (`ztun maps | head`) by wrapping stdout and leaving with status 1: whoever
        # reads has had enough, which is no error.
        if sys.stdout is stdout:
            raise
        sys.exit(0)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"ztun: {one_line(error.format_message())}{where_to_look(error)}", err=True)
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


def where_to_look(error: click.ClickException) -> str:
    """For a wrong call: whose help says what is right."""
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return ""
    return f" (try `{error.ctx.command_path} --help`)"
