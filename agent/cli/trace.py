"""`ztun trace`: packets as they leave the programs, live, by the pinned maps alone. It changes nothing for them.

Works with every ztun process stopped or dead. The programs hold its end against the clock, so one that is killed leaves
nothing behind that costs anything.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import click

from agent.cli import output as out
from agent.cli.kinds import Span
from agent.cli.output import CliError, json_line
from agent.cli.pinned import open_maps
from agent.cli.trace_wanted import wanted
from agent.cli.trace_words import Names, Row, is_proof, line, row
from agent.cli.which import Which, which_agent
from agent.model.counted import counted
from agent.net.syn_ring import SynRing
from redirect import break_glass, rtnetlink
from redirect.errors import RedirectError, WrongNode
from redirect.layout import LAYOUT_HASH
from redirect.maps import Maps
from redirect.opening import now_ns
from redirect.pins import Pins
from redirect.rtnetlink import LinkRow
from redirect.side_check import require_here
from redirect.trace_entries import TraceEvent
from redirect.tracing import Tracer

LONGEST_S = 24 * 3600.0
TURN_S = 0.5
"""Between two looks at names and losses; then the end is put off, too: LAST_NS of redirect.tracing is four of them."""
AT_ONCE = 1000


@click.command()
@click.argument("what", metavar="[POD|TUPLE]", required=False)
@click.option(
    "--drops", is_flag=True, help="Only packets that end in a program: dropped, or denied by policy."
)
@click.option("--count", type=click.IntRange(1), metavar="NUMBER", help="Stop after so many packets.")
@click.option("--for", "for_s", type=Span(LONGEST_S), metavar="TIME", help="Stop after a time: 90s, 15m, 2h.")
@click.option("--all", "with_proofs", is_flag=True, help="Also the proxy's own probes of its listeners.")
@which_agent
@out.line_option
def trace(
    which: Which,
    output: str,
    what: str | None,
    drops: bool,
    count: int | None,
    for_s: float | None,
    with_proofs: bool,
) -> None:
    """Show packets as they leave the programs.

    A line for each, until Ctrl-C: when, program, interface and pod, ends, TCP flags, size with the Ethernet header,
    the exit by which it left (in the words of `ztun maps drops`), and where it went: a listener of the proxy, a
    connection of it (proxy), past it (pass), dropped, or answered by the prefilter.

    POD is NAMESPACE/NAME, an address or the interface on this node. TUPLE is ADDRESS:PORT-ADDRESS:PORT in either
    direction, or one end of it; each address and port may be left out (10.0.0.7, :5432, 10.0.0.7-:443). A
    connection has other ends on each side of the proxy: by POD all of them are shown.

    Without POD and TUPLE the connections by which the agent proves its own listeners are left out, between addresses
    that nobody else has; --all shows them.

    Needs no process of ztun. More than 10000 packets a second are not shown but counted, and so is what cannot be
    printed in time.
    """
    told = 0
    try:
        with open_maps(which.instance, which.run_dir) as maps, interrupts() as interrupted:
            links = links_here(which.instance)
            among = break_glass.targets(maps, links)
            pins = Pins(which.instance, which.run_dir).root / LAYOUT_HASH
            asked = wanted(what, among, is_ends_only=drops)
            with (
                closing(Tracer(maps, pins, asked)) as tracer,
                closing(SynRing(os.dup(tracer.ring_fd))) as ring,
            ):
                click.echo(f"tracing {what or 'everything'}; Ctrl-C ends it", err=True)
                for found, lost in turns(maps, links, tracer, ring, interrupted, for_s):
                    rows = found if with_proofs or what is not None else [r for r in found if not is_proof(r)]
                    shown = rows if count is None else rows[: count - told]
                    echo(shown, lost, output)
                    told += len(shown)
                    if told == count:
                        break
                left = tracer.lost
    except (RedirectError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CliError(str(error)) from error
    click.echo(counted(told, "packet") + (f", and {left} that were not shown" if left else ""), err=True)


def turns(
    maps: Maps,
    links: dict[int, LinkRow],
    tracer: Tracer,
    ring: SynRing,
    interrupted: socket.socket,
    for_s: float | None,
) -> Iterator[tuple[list[Row], list[Row]]]:
    """What has come, and what is to be said of what was lost, each time there is something. Raises NoPins, OSError."""
    poll = select.poll()
    poll.register(ring, select.POLLIN)
    poll.register(interrupted, select.POLLIN)
    end_s = None if for_s is None else time.monotonic() + for_s
    known_lost, names, turn_s = 0, names_of(maps, links), time.monotonic()
    while True:
        now_s = time.monotonic()
        due_s = turn_s + TURN_S if end_s is None else min(turn_s + TURN_S, end_s)
        ready = {fd for fd, _ in poll.poll(max(0.0, due_s - now_s) * 1000)}
        is_last = interrupted.fileno() in ready or (end_s is not None and time.monotonic() >= end_s)
        if is_last:
            tracer.stop()
        said: list[Row] = []
        if not is_last and time.monotonic() >= turn_s + TURN_S:
            missed_s, turn_s = tracer.keep(), time.monotonic()
            names = names_of(maps, links_again(links))
            if missed_s:
                said.append({"missed_s": round(missed_s, 3)})
        rows = [row(TraceEvent.decode(record), names) for record in ring.take(AT_ONCE)]
        if (lost := tracer.lost) > known_lost:
            said.append({"lost": lost - known_lost})
            known_lost = lost
        if rows or said:
            yield rows, said
        if is_last and not rows:
            return


def echo(rows: Sequence[Row], said: Sequence[Row], output: str) -> None:
    lines = [*map(json_line, (*rows, *said))] if output == "json" else [*map(line, rows), *map(loss, said)]
    if lines:
        click.echo("\n".join(lines))


def loss(said: Row) -> str:
    if "lost" in said:
        packets = "packet" if said["lost"] == 1 else "packets"
        return f"({said['lost']} more {packets} came, faster than they can be shown)"
    return f"(this command stood still, and what came in {said['missed_s']} s is not shown)"


def names_of(maps: Maps, links: dict[int, LinkRow]) -> Names:
    return Names(
        {number: each.ifname for number, each in links.items()},
        {number: text.partition(" ")[0] for number, text in maps.owners().items()},
        {address: entry.ifindex for address, entry in maps.pods().items()},
        time.time_ns() - now_ns(),
    )


def links_here(instance: str) -> dict[int, LinkRow]:
    """The node's interfaces; none where this is another network namespace: their numbers mean others here."""
    try:
        require_here(instance)
    except WrongNode:
        return {}
    return rtnetlink.links()


def links_again(links: dict[int, LinkRow]) -> dict[int, LinkRow]:
    return rtnetlink.links() if links else links


@contextmanager
def interrupts() -> Iterator[socket.socket]:
    """Readable once somebody wants the end (Ctrl-C, SIGTERM), between two lines; at once the second time."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = {}

        def note(number: int, _: object) -> None:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            writer.send(b"\0")

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, note)
            yield reader
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
