"""The first code of the control process: has the nursery of workers forked while there is nothing to hide, then runs.

`ztun agent` becomes this by execve(2): an isolated interpreter without the command line's modules. What control and
workers both need is imported before the fork, so that a node holds it once; gRPC and everything else of control comes
after it, and with it threads, certificates and keys, which no worker can inherit.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from agent import config
from agent.config import Config
from agent.fd_limit import raise_fd_limit
from agent.given_options import plain_flags, settings_of, without_effect
from agent.memory_order import control_last
from agent.privileges import refuse_core_dumps
from redirect import child
from redirect.nursery import Nursery
from redirect.shown_command import show_as

WORKER = "agent.worker"
COMMAND = "agent.cli.main"
"""Reads the same words again, and says what is wrong with them."""
SHARED = (
    # Before anything that imports `cryptography`.
    "agent.identity.ticketless",
    "agent.build",
    "agent.channel_socket",
    "agent.fd_limit",
    "agent.identity.handshake",
    "agent.log",
    "agent.mesh_state",
    "agent.model.listener",
    "agent.net.frames",
    "agent.net.sockets",
    "agent.telemetry.metrics",
    "agent.telemetry.record",
    "redirect.side",
)
"""What both import; what only one of them does would be held, and never used, by the other."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the command hands on. `shown`: what ps shows; `notes`: for the log."""

    settings: Config
    shown: list[str]
    notes: list[str]
    stands_by: tuple[int, ...] | None = None
    """This agent has stepped aside, and had these workers."""
    taker: dict[str, float] | None = None
    """For whom, as `agent.taker` has it."""


def told(arguments: Sequence[str]) -> Told:
    """`--given COUNT SHOWN...`: the last COUNT words of what is shown are flags to be read. Else they were read, and it
    is `--options`, `--shown`, `--notes` and maybe `--stands-by` and `--taker`, all JSON.
    """
    if arguments[:1] != ["--given"]:
        by_name = {name: json.loads(value) for name, value in child.flags(arguments).items()}
        pids = tuple(by_name["stands-by"]) if "stands-by" in by_name else None
        return Told(
            config.build(by_name["options"]), by_name["shown"], by_name["notes"], pids, by_name.get("taker")
        )
    shown = list(arguments[2:])
    given = shown[len(shown) - int(arguments[1]) :]
    try:
        return Told(settings_of(plain_flags(given)), shown, without_effect(config.environment()))
    except config.ConfigError:
        command = child.command(COMMAND, "agent", *given)
        os.execv(command[0], command)


def begun(shown: Sequence[str]) -> Nursery:
    """The nursery of workers, forked from this process. Raises OSError."""
    show_as(shown)
    # Also while it waits for another agent to end; who serves says so (`agent.stopping`).
    child.ignore_what_means_nothing()
    # Workers have no right to raise their limit: they inherit it.
    raise_fd_limit()
    for module in SHARED:
        importlib.import_module(module)
    return Nursery.forked(WORKER)


def main() -> None:
    # What is imported stays: there is nothing to collect yet, and looking for it would take a tenth of the start.
    gc.disable()
    order = told(sys.argv[1:])
    nursery = begun(order.shown)
    # After the fork: workers stay where this process was put.
    control_last()
    # Before there is a key, and after the fork: what may be looked at of workers, they decide.
    refuse_core_dumps()
    # Only here: gRPC makes threads, and nothing of control may be in workers.
    from agent import run
    from agent.standing_by import StandsBy, end_when_asked, step_aside
    from agent.start_error import StartError
    from agent.succession import status_in
    from agent.taker import Overdue, Taker

    end_when_asked()
    place = None
    if order.stands_by is not None:
        taker = Taker.read(order.taker) if order.taker is not None else None
        besides = [Overdue(taker, order.settings.directory, status_in)] if taker is not None else []
        place = StandsBy(order.stands_by, *besides)
    try:
        left = run.run(order.settings, nursery, order.notes, place)
        if left is not None:
            step_aside(order.settings, order.shown, left.pids, left.taker)
    except StartError as error:
        sys.exit(f"ztun: {error}")
    except KeyboardInterrupt:
        sys.exit("ztun: interrupted")
