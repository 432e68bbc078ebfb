"""`ztun uninstall`: take everything of ztun out of this node's kernel. Works with every ztun process stopped."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.enroll import INSTANCE, RUN_DIR
from agent.enroll import wish_file
from redirect.errors import RedirectError
from redirect.reconcile import Redirection


@click.command()
@INSTANCE
@RUN_DIR
def uninstall(instance: str, run_dir: str | None) -> None:
    """Remove programs, maps, pins and private namespaces. Pods that were captured are open afterwards."""
    directory = Path(run_dir or f"/run/ztun/{instance}")
    try:
        removed = Redirection(instance, directory).uninstall()
        # Last: until the pods are open, the next agent must know them.
        if wish_file.forget(directory):
            removed.append("the wishes for pods to be captured")
    except (RedirectError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for line in removed:
        click.echo(f"removed {line}")
    click.echo(f"nothing of instance {instance} is left in the kernel")
