"""The network between the nodes: packets lost, late, overtaken, or none at all.

Without netem, which not every kernel has: nftables drops a share of what arrives, and what is late goes through a TAP
(`slow_link`).
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.lab.firewall import apply
from agent.lab.wiring import UPLINK
from redirect.netns import entered
from tests.chaos.fault import Apply, Fault
from tests.chaos.losses import RESETS, Allowed, Loss, Reach
from tests.chaos.schedule import Span
from tests.chaos.stage import Stage

ROOT = Path(__file__).parents[2]
HEALS_S = 45.0


def drops(table: str, percent: int) -> str:
    """nftables: of TCP that comes by the uplink so many of a hundred packets are lost; 100: all of everything."""
    chance = "" if percent == 100 else f"meta l4proto tcp numgen random mod 100 < {percent} "
    hook = f'type filter hook ingress device "{UPLINK}" priority -10; policy accept;'
    return f"table netdev {table} {{\n chain arriving {{\n  {hook}\n  {chance}drop\n }}\n}}\n"


@contextmanager
def dropping(stage: Stage, nodes: tuple[str, ...], percent: int) -> Iterator[None]:
    table = "chaos_loss"
    with ExitStack() as stack:
        for node in nodes:
            netns = stage.world.node(node).netns
            stack.callback(apply, netns, f"add table netdev {table}\ndelete table netdev {table}\n")
            apply(netns, drops(table, percent))
        yield


@contextmanager
def loss(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    with dropping(stage, stage.nodes, chances.randint(2, 20)):
        yield


def partition(*, one_way: bool) -> Apply:
    @contextmanager
    def parted(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
        with dropping(stage, (node,) if one_way else stage.nodes, 100):
            yield

    return parted


@contextmanager
def delay(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    delay_s, jitter_s = chances.uniform(0.01, 0.15), chances.choice([0.0, 0.02])
    with ExitStack() as stack:
        for each in stage.nodes:
            command = [sys.executable, "-m", "tests.chaos.slow_link", UPLINK, str(delay_s), str(jitter_s)]
            with entered(stage.world.node(each).netns):
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
                )
            stack.callback(_end, process)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the link of {each} could not be made slow")
        yield


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate()  # closes its input, and waits


BROKEN = frozenset({Loss.RESET, Loss.SILENT})
LOST = Allowed(HEALS_S, new=RESETS, reach=Reach.LINK, link_is_broken=True)
LATE = Allowed(HEALS_S, link_is_broken=True)
PARTED = Allowed(HEALS_S, new=BROKEN, reach=Reach.LINK, link_is_broken=True)
LONG_PARTED = Allowed(HEALS_S, live=BROKEN, new=BROKEN, reach=Reach.LINK, link_is_broken=True)

FAULTS = {
    "loss": Fault("2 to 20 % of the packets between the nodes are lost, each way", Span(2, 8), LOST, loss),
    "delay": Fault("packets between the nodes take 10 to 170 ms, each way", Span(2, 8), LATE, delay),
    "partition": Fault("no packet passes between the nodes", Span(0.5, 6), PARTED, partition(one_way=False)),
    "one-way": Fault("none passes in one direction", Span(0.5, 6), PARTED, partition(one_way=True)),
    "long-partition": Fault(
        "no packet passes for longer than connections wait",
        Span(25, 40),
        LONG_PARTED,
        partition(one_way=False),
    ),
}
