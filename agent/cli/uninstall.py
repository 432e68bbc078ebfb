"""`ztun uninstall`: take everything of ztun out of this node's kernel. Works with every ztun process stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from agent.admin import client
from agent.cli.output import CliError
from agent.cli.system_unit import unit_of
from agent.cli.which import Which, which_agent
from agent.doctor.site import Agent
from agent.enroll import wish_file
from agent.run_lock import AlreadyRuns, RunLock
from agent.supervisor import orphans
from redirect import netns
from redirect.errors import RedirectError
from redirect.reconcile import Redirection
from redirect.side_check import require_here

STOP_PATIENCE_S = 120.0
"""An agent stops within its drain deadline, and a little."""


@click.command()
@which_agent
@click.option("--stop", is_flag=True, help="Stop the agent first, if one runs; live connections drain.")
def uninstall(which: Which, stop: bool) -> None:
    """Remove programs, maps, pins and private namespaces. Pods that were captured are open afterwards.

    Refuses while an agent of the instance runs, unless told to --stop it. Workers that an agent left behind are ended.
    """
    if os.geteuid() != 0:
        raise CliError("only root can take ztun out of the kernel: run this as root")
    instance, directory = which.instance, which.directory
    try:
        redirection = Redirection(instance, directory)
        if not directory.is_dir() and not redirection.is_installed:
            click.echo(
                f"nothing of instance {instance} is here: no {directory}, no pins, no private namespaces"
            )
            return
        # Before the agent is asked to stop: it cannot be undone, and pods would stay closed.
        require_here(instance)
        unit = unit_of(Agent(which.socket).pid) if stop else ""
        with locked(directory, stop=stop) as lock:
            left = take_out(redirection, directory)
            is_followed = lock.is_awaited
        is_followed = is_followed or runs_again(directory)
    except (RedirectError, OSError, ValueError) as error:
        raise CliError(str(error)) from error
    but = []
    if left:
        but.append(
            f"the private namespaces live on while processes are in them: {', '.join(left)}; end those"
        )
    if unit:
        but.append(
            f"the agent was of the systemd unit {unit}, which starts it again, and pods are captured anew: "
            f"`systemctl disable --now {unit}`, then `ztun uninstall` once more"
        )
    elif is_followed:
        but.append(
            "another agent starts here already, and captures pods anew: have whatever starts it end it (of a systemd "
            "unit: `systemctl disable --now UNIT`), then `ztun uninstall` once more"
        )
    if but:
        raise CliError(f"all of it is removed, but {'; and '.join(but)}")
    click.echo(f"nothing of instance {instance} is left")


def take_out(redirection: Redirection, directory: Path) -> list[str]:
    """Remove everything and say so; the processes that keep a private namespace alive."""
    with netns.watched(redirection.private_namespaces) as residents:
        for line in redirection.uninstall():
            click.echo(line)
        # After the reset of captured connections: their other ends shall not take it for a proper end.
        for pid in orphans.end_all(directory):
            click.echo(f"ended a worker that was left behind (pid {pid})")
        left = residents()
    # Last: until the pods are open, the next agent must know them.
    if wish_file.forget(directory):
        click.echo("removed the wishes for pods to be captured")
    (directory / "agent.sock").unlink(missing_ok=True)
    return left


@contextmanager
def locked(directory: Path, *, stop: bool) -> Iterator[RunLock]:
    """No agent runs or starts meanwhile; in the end the directory goes, unless something else is in it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = RunLock(directory)
    try:
        lock.take()
    except AlreadyRuns as error:
        if not stop:
            raise CliError(
                f"an agent runs on {directory}: stop it first, or have it stopped with --stop"
            ) from error
        ask_to_stop(directory)
        wait_for(lock, directory)
    try:
        yield lock
    finally:
        lock.remove()
        with suppress(OSError):  # not empty: what is in it is not ours to remove
            directory.rmdir()


def runs_again(directory: Path) -> bool:
    """Whether an agent has come since. Raises OSError."""
    lock = RunLock(directory)
    try:
        lock.take()
    except FileNotFoundError:
        return False  # the directory is gone
    except AlreadyRuns:
        return True
    lock.remove()
    return False


def ask_to_stop(directory: Path) -> None:
    try:
        client.ask(directory / "agent.sock", "POST", "/quit")
    except (client.AgentAbsent, client.AgentRefused) as error:
        raise CliError(
            f"the agent cannot be asked to stop ({error}): end it, then uninstall again"
        ) from error


def wait_for(lock: RunLock, directory: Path) -> None:
    click.echo("the agent stops")
    try:
        lock.wait(STOP_PATIENCE_S)
    except AlreadyRuns as error:
        raise CliError(
            f"the agent on {directory} has not stopped within {STOP_PATIENCE_S:g} s: "
            "uninstall again when it has, or end it"
        ) from error
