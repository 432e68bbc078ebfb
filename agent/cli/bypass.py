"""`ztun bypass`: break glass. Opens captured pods for a while by the pinned maps alone, and shows what is open.

Works with every ztun process stopped or dead: the end is in the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli import system_log
from agent.cli.kinds import Span
from agent.cli.output import CliError
from agent.cli.pinned import open_maps
from agent.cli.which import Which, which_agent
from agent.doctor.without_agent import SERVED, START_AGAIN, are_served, ejected_words
from redirect import break_glass
from redirect.errors import RedirectError
from redirect.maps import Maps
from redirect.opened import Opened, Target, row
from redirect.side import sides_of
from redirect.side_check import require_here

LONGEST_S = 24 * 3600.0
PATIENCE_S = 2.0
"""An agent that does not answer that long is taken for one that is stopped."""
COLUMNS = ("scope", "pod", "interface", "left", "who", "reason")
NOTHING_OPEN = "no pod is open: all that are captured are served by the mesh, or closed"


@click.command()
@click.argument("pods", nargs=-1, metavar="[POD]...")
@click.option("--node", "is_node", is_flag=True, help="All pods of this node, those that come meanwhile too.")
@click.option(
    "--for",
    "for_s",
    type=Span(LONGEST_S),
    metavar="TIME",
    help="How long from now: 90s, 15m, 2h; at most 24h.",
)
@click.option("--reason", metavar="WHY", help="Why: it is shown and logged with who did it.")
@click.option("--off", is_flag=True, help="End it now.")
@click.option(
    "--keep-existing",
    is_flag=True,
    help="Leave the connections that the proxy has to it, instead of having their clients connect anew.",
)
@which_agent
@out.output_option
def bypass(
    which: Which,
    output: str,
    pods: Sequence[str],
    is_node: bool,
    for_s: float | None,
    reason: str | None,
    off: bool,
    keep_existing: bool,
) -> None:
    """Let pods speak in clear for a while.

    Without a POD, show which do.

    POD is NAMESPACE/NAME, an address or the interface on this node. New connections from and to it go their way as if
    it were not captured: no encryption, no identity, and what a policy or STRICT would refuse is let in. Only the
    tunnel port stays the mesh's, and the pod's own addresses stay checked. Once the time is over, or with --off, the
    pod is captured again and such connections are reset. Needs no process of ztun.
    """
    if not pods and not is_node:
        if off or for_s is not None or reason is not None or keep_existing:
            raise click.UsageError("name the pods, or say --node")
        with glass(which, is_reading=True) as maps:
            show(maps, output, ejected_now(which, maps))
        return
    if pods and is_node:
        raise click.UsageError("name pods or say --node, not both")
    if off and (for_s is not None or reason is not None or keep_existing):
        raise click.UsageError("--off ends what is open now, and takes no --for, --reason or --keep-existing")
    if not off:
        if for_s is None:
            raise click.UsageError("say how long: --for 15m")
        reason = out.one_line(reason or "")
        if not reason:
            raise click.UsageError("say why: --reason TEXT")
    with glass(which) as maps:
        known = break_glass.targets(maps)
        # All of them are found before the first is opened.
        chosen: list[Target | None] = [None] if is_node else [break_glass.find(known, pod) for pod in pods]
        if off:
            lines = close(maps, chosen)
        else:
            assert for_s is not None and reason is not None
            lines = open_(maps, chosen, for_s, reason)
            if not keep_existing:
                whose = known.values() if is_node else [each for each in chosen if each is not None]
                lines.append(reset(which.instance, list(whose)))
        for line in lines:
            click.echo(line, err=output == "json")
        if output == "json":
            show(maps, output, ejected_now(which, maps))


def open_(maps: Maps, chosen: Sequence[Target | None], for_s: float, reason: str) -> list[str]:
    who, lines = system_log.caller(), []
    for target in chosen:
        opening = break_glass.begin(maps, target, for_s, who, reason)
        name = "all pods of this node" if target is None else target.name
        until = datetime.fromtimestamp(time.time() + for_s, UTC)
        line = f"{name}: in clear until {until:%Y-%m-%dT%H:%M:%SZ} ({out.duration(for_s)})"
        lines += [line, system_log.note(f"bypass of {line}, by {opening.who}: {opening.reason}")]
    return lines


def close(maps: Maps, chosen: Sequence[Target | None]) -> list[str]:
    lines = []
    for target in chosen:
        name = "all pods of this node" if target is None else target.name
        if break_glass.end(maps, target):
            line = f"{name}: no longer in clear; what began so is reset"
            lines += [line, system_log.note(f"bypass ended early of {line}, by {system_log.caller()}")]
        else:
            lines.append(f"{name}: was not open by itself")
    return lines


def reset(instance: str, whose: Sequence[Target]) -> str:
    """The connections that the proxy has, also one that is stopped and would never end them."""
    try:
        number = break_glass.reset_at_proxy([side.netns for side in sides_of(instance)], whose)
    except OSError as error:
        return f"the connections that the proxy has stay as they are: {error.strerror}"
    return reset_words(number)


def reset_words(number: int) -> str:
    if number == 1:
        return "1 socket of the proxy was reset: its client connects anew"
    return f"{number} sockets of the proxy were reset: their clients connect anew"


def show(maps: Maps, output: str, ejected: Sequence[str]) -> None:
    rows = [shown(each) for each in break_glass.opened(maps)]
    if output == "json":
        out.show_json({"bypasses": rows, "ejected": ejected})
        return
    if rows or not ejected:
        out.show_table(rows, COLUMNS, empty=NOTHING_OPEN)
    for line in ejected:
        click.echo(line)


def shown(opened: Opened) -> dict[str, object]:
    return {**row(opened), "left": out.duration(opened.left_s)}


@contextmanager
def glass(which: Which, *, is_reading: bool = False) -> Iterator[Maps]:
    """The pinned maps of an instance; what goes wrong with them in one line. Raises CliError."""
    try:
        if not is_reading:
            require_here(which.instance)
        with open_maps(which.instance, which.run_dir) as maps:
            yield maps
    except (RedirectError, OSError, ValueError) as error:
        raise CliError(str(error)) from error


@dataclass(frozen=True, slots=True)
class KernelWords:
    """What is told in place of an agent. `served`: who serves without it, and what to do; empty: nobody."""

    served: str
    ejected: list[str]
    bypasses: list[dict[str, object]]


def kernel_words(which: Which) -> KernelWords:
    """Nothing of it where the maps cannot be read."""
    try:
        with open_maps(which.instance, which.run_dir) as maps:
            served = f"{SERVED}: {START_AGAIN}" if are_served(maps) else ""
            open_now = [row(each) for each in break_glass.opened(maps)]
            return KernelWords(served, ejected_words(which.directory, maps), open_now)
    except (CliError, RedirectError, OSError):
        return KernelWords("", [], [])


def ejected_now(which: Which, maps: Maps) -> list[str]:
    """Nothing while an agent answers, whose business it is."""
    words = ejected_words(which.directory, maps)
    if not words:
        return []
    try:
        client.ask(which.socket, "GET", "/status", patience_s=PATIENCE_S)
    except client.AgentAbsent:
        return words
    return []
