"""`ztun cni`: take the CNI plugin off this node. An agent with --cni-conf-dir puts it there and keeps it there."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.output import CliError
from agent.cni.conflist import NoConfiguration
from agent.cni.install import Installation

CONF_DIR, BIN_DIR = Path("/etc/cni/net.d"), Path("/opt/cni/bin")


@click.group()
def cni() -> None:
    """The CNI plugin on this node."""


def _directories(command: click.decorators.FC) -> click.decorators.FC:
    kind = click.Path(path_type=Path, file_okay=False)
    conf = click.option(
        "--conf-dir", type=kind, default=CONF_DIR, show_default=True, help="Network configurations."
    )
    binary = click.option("--bin-dir", type=kind, default=BIN_DIR, show_default=True, help="CNI plugins.")
    return conf(binary(command))


@cni.command()
@_directories
def uninstall(conf_dir: Path, bin_dir: Path) -> None:
    """Take ztun-cni off this node.

    Out of every network configuration first, then the plugin itself.

    Pods that are made from then on are captured when the API tells of them. An agent that runs with --cni-conf-dir puts
    it back: stop that first.
    """
    try:
        done = Installation(bin_dir, conf_dir, {}).uninstall()
    except PermissionError as error:
        raise CliError(
            f"{error.filename or conf_dir} may be changed by root only: run this as root"
        ) from error
    except (OSError, NoConfiguration) as error:
        raise CliError(str(error)) from error
    for line in done or [f"nothing of ztun-cni is in {conf_dir} and {bin_dir}"]:
        click.echo(line)
