"""Agents of different builds after each other, and side by side: nothing hangs, and nobody is ended for what is new.

N is this tree, N-1 an earlier commit, N+1 this tree with more in everything that processes say to each other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.channel import PROTOCOL
from agent.lab.agents import ZTUN
from tests.support.builds import BEFORE, HAND_OVER, Edit, earlier, later
from tests.support.labmesh import World, running
from tests.support.labtraffic import LogReader, until, wait_gone
from tests.support.ongoing import New
from tests.support.streams import Streams

pytestmark = [pytest.mark.kernel, pytest.mark.long]

ECHO_PORT = 7007
MOVES = """
FORMATS = (2, 1)


def given(unit: Unit, format_: int) -> bytes:
    more = {"mood": "well"} if format_ == 2 else {}
    return encode(Unit(unit.kind, {**unit.fields, **more}), format_)


def taken(data: bytes, format_: int) -> Unit:
    unit = decode(data, format_)
    if format_ == 2 and unit.fields.pop("mood") != "well":
        raise BadUnit("it is not well")
    return unit
"""
FORMATS = Path(__file__).parents[2] / "agent" / "handover" / "formats.py"
MOOD = f"""

@dataclass(frozen=True, slots=True)
class Mood(Message):
    SINCE = {PROTOCOL + 1}
"""
MOODS = 'MOODS = _counter("ztun_moods", "Moods", "mood")\n'
HELLOS = "    formats: Sequence[int] = ()"
ORDERS, LINK, FIGURES = (
    "agent/proxy/orders.py",
    "agent/supervisor/worker_link.py",
    "agent/handover/figures.py",
)
MORE = (
    Edit("agent/__init__.py", 'VERSION = "0.1.0"', 'VERSION = "0.2.0"'),
    Edit("agent/channel.py", f"PROTOCOL = {PROTOCOL}\n", f"PROTOCOL = {PROTOCOL + 1}\n"),
    # A field in a message of the worker, which is the first to speak, and one of control.
    Edit("agent/channel.py", f"{HELLOS}\n", f'{HELLOS}\n    mood: str = "well"\n'),
    Edit("agent/channel.py", "    deadline_s: float\n", '    deadline_s: float\n    mood: str = "well"\n'),
    # A kind that nobody knew before.
    Edit("agent/channel.py", "# --- worker -> control\n", f"# --- worker -> control\n{MOOD}"),
    Edit(
        ORDERS,
        "        to.send(hello, fds)\n",
        "        to.send(hello, fds)\n        to.send(channel.Mood())\n",
    ),
    Edit(
        LINK,
        "            case Leaving():\n",
        "            case Mood():\n                pass\n            case Leaving():\n",
    ),
    Edit(LINK, "from agent.channel import (\n", "from agent.channel import (\n    Mood,\n"),
    # A figure with another name.
    Edit("agent/telemetry/families.py", "NOT_HANDED_OVER = _counter(", f"{MOODS}NOT_HANDED_OVER = _counter("),
    Edit(FIGURES, "    for why in Why:\n", '    figures.add(families.MOODS, "well")\n    for why in Why:\n'),
    # More beside the formats.
    Edit(
        "agent/handover/messages.py",
        "json.dumps(message.formats)",
        'json.dumps([*message.formats, {"mood": "well"}])',
    ),
)
WAYS = (
    ("client-a", "server-b"),
    ("client-b", "server-b"),
    ("client-b", "outsider-b"),
    ("client-b", "server-a"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    options = {"drain-deadline-s": "3", "start-patience-s": "60", "pod-name": "agent-0"}
    with running("k", tmp_path_factory.mktemp("skew"), flags=options) as made:
        for pod in ("server-a", "server-b", "outsider-b"):
            made.serve(pod, "echo", ECHO_PORT)
        yield made


def formats(old: str, new: str) -> Edit:
    return Edit("agent/handover/formats.py", old, new)


def next_build(there: Path, *edits: Edit) -> tuple[str, ...]:
    text = FORMATS.read_text()
    return later(there, (*MORE, formats(text[text.index("\nFORMATS = ") :], MOVES), *edits))


@contextmanager
def unnoticed(world: World) -> Iterator[Streams]:
    dialled = (
        (f"{client} to {server} {number}", world.dial(client, world.address(server), ECHO_PORT))
        for client, server in WAYS
        for number in range(3)
    )
    with Streams(dialled) as live:
        live.go_on()
        yield live


def follow(world: World, node: str, ztun: tuple[str, ...]) -> LogReader:
    """Another build waits, then the one that runs is asked to end; what of the log came with it, when all is over."""
    first, log = world.process(f"agent-{node}"), world.log(node)
    before = world.workers(node)
    waiting = len(log.lines("waiting until it ends"))
    world.mesh.ztun = ztun
    try:
        world.mesh.start_agent(world.node(node))
    finally:
        world.mesh.ztun = ZTUN
    until(lambda: len(log.lines("waiting until it ends")) > waiting, "the next one waits")
    os.kill(first.pid, signal.SIGTERM)
    world.mesh.wait_ready(node)
    world.metric(node, "istio_tcp_connections_opened_total")  # while workers of both may be there
    until(lambda: not world.status(node)["retiring_workers"], "nothing is left of the one before")
    assert not set(before.values()) & set(world.workers(node).values())
    wait_gone(first.pid)
    return log


def test_an_upgrade_and_its_undoing_lose_nothing_where_both_know_a_format(
    world: World, tmp_path: Path
) -> None:
    before, after = earlier(HAND_OVER, tmp_path / "before"), next_build(tmp_path / "after")
    follow(world, "node-b", before)
    with unnoticed(world) as live, New(world, "client-a", world.address("server-b"), 60.0) as new:
        for ztun in (ZTUN, after, ZTUN, before):
            moved = world.metric("node-b", "ztun_handed_over_total")
            opened = world.metric("node-b", "istio_tcp_connections_opened_total")
            follow(world, "node-b", ztun)
            live.go_on()
            new.goes_on(5)
            assert world.metric("node-b", "ztun_handed_over_total") > moved
            assert world.metric("node-b", "istio_tcp_connections_opened_total") >= opened
    follow(world, "node-b", ZTUN)


def test_what_the_next_build_does_not_take_drains_and_is_named(world: World, tmp_path: Path) -> None:
    after = next_build(tmp_path / "after", formats("FORMATS = (2, 1)", "FORMATS = (2,)"))
    for ztun, gives, takes in ((after, (1,), (2,)), (ZTUN, (2,), (1,))):
        with unnoticed(world) as live, New(world, "client-a", world.address("server-b"), 60.0) as new:
            log = follow(world, "node-b", ztun)
            assert log.lines(
                "does not hand over", f"gives units of format {gives}, and the other takes {takes}"
            )
            until(
                lambda live=live: len(live.failures) == len(live.all),
                "what was live was reset at the deadline",
            )
            new.goes_on(5)


def test_a_build_of_before_the_hand_over_is_followed_and_comes_back(world: World, tmp_path: Path) -> None:
    before = earlier(BEFORE, tmp_path / "before")
    for ztun in (before, ZTUN):
        with New(world, "client-a", world.address("server-b"), 60.0) as new:
            follow(world, "node-b", ztun)
            new.goes_on(5)


def test_nodes_of_two_builds_serve_each_other(world: World, tmp_path: Path) -> None:
    """Whichever of them is the newer one: what is open, and what is opened."""
    builds = (earlier(HAND_OVER, tmp_path / "before"), ZTUN, next_build(tmp_path / "after"))
    with unnoticed(world) as live:
        for build in builds:
            follow(world, "node-b", build)
            for client, server in (("client-a", "server-b"), ("client-b", "server-a")):
                for version in (4, 6):
                    world.ask(client, world.address(server, version))
            live.go_on()
    follow(world, "node-b", ZTUN)
