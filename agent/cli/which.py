"""Which agent of this machine a command means: `--instance`, `--run-dir`, or a node of a lab by `--lab NAME/NODE`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli.output import CliError
from agent.config import run_directory
from agent.lab.naming import instance_of, netns_of, run_dir_of
from agent.option_kinds import INSTANCE
from redirect import netns

DEFAULT_INSTANCE = "ztun"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Which:
    """An agent. `run_dir` is None where it is the instance's usual one, `netns` where its node is not of a lab."""

    instance: str = DEFAULT_INSTANCE
    run_dir: Path | None = None
    netns: Path | None = None

    @property
    def directory(self) -> Path:
        return run_directory(self.instance, self.run_dir)

    @property
    def socket(self) -> Path:
        """Where the agent answers."""
        return self.directory / "agent.sock"


def which_of(instance: str | None, run_dir: Path | None, lab: str | None) -> Which:
    """From the three options. Raises click.UsageError."""
    if lab is None:
        return Which(DEFAULT_INSTANCE if instance is None else checked(instance), run_dir)
    if instance is not None or run_dir is not None:
        raise click.UsageError("--lab names the agent already: leave --instance and --run-dir out")
    name, slash, node = lab.partition("/")
    if not name or not slash or not node:
        raise click.UsageError(f"--lab {lab!r} is not NAME/NODE; `ztun lab status` lists the nodes")
    directory = run_dir_of(name, node)
    if not directory.is_dir():
        raise click.UsageError(
            f"lab {name} has no node {node} here; `ztun lab status --name {name}` lists them"
        )
    return Which(instance_of(name, node), directory, netns_of(name, node))


@contextmanager
def on_node(which: Which) -> Iterator[None]:
    """In the network namespace of a lab's node, where numbers of interfaces mean its own. Raises CliError.

    Whoever may not enter one stays where he is: what is asked says then which permission it lacks.
    """
    with ExitStack() as inside:
        if which.netns is not None and os.geteuid() == 0:
            try:
                inside.enter_context(netns.entered(which.netns))
            except OSError as error:
                raise CliError(
                    f"the network namespace of that node cannot be entered: {which.netns}: {error.strerror}"
                ) from error
        yield


def checked(instance: str) -> str:
    """The name of an agent: it is a part of paths. Raises click.UsageError."""
    try:
        INSTANCE.parse(instance)
    except ValueError as error:
        raise click.UsageError(f"--instance: {instance!r} cannot be used: {error}") from error
    return instance


OPTIONS = (
    click.option(
        "--instance", metavar="NAME", help=f"Which agent of this machine.  [default: {DEFAULT_INSTANCE}]"
    ),
    click.option(
        "--run-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="The agent's run directory, where it is not /run/ztun/INSTANCE.",
    ),
    click.option(
        "--lab", metavar="NAME/NODE", help="The agent of a node of a lab, in place of the two above."
    ),
)


def which_agent(command: Command) -> Command:
    """Adds the options that say which agent; the command gets them as `which`."""

    @wraps(command)
    def chosen(instance: str | None, run_dir: Path | None, lab: str | None, **rest: Any) -> Any:
        which = which_of(instance, run_dir, lab)
        with on_node(which):
            return command(which=which, **rest)

    wrapped: Any = chosen
    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    result: Command = wrapped
    return result
