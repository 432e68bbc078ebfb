"""What the programs tell of a captured pod's SYNs, as `ztun trace` has them told; and that no time of day opens a pod.

Nobody serves here, so a SYN of the pod is dropped, unless the pod is open for a while.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent.net.syn_ring import SynRing
from redirect import break_glass, netns
from redirect.layout import REASONS
from redirect.maps import Maps
from redirect.opening import now_ns
from redirect.trace_entries import TraceEvent, TraceFilter
from redirect.tracing import Tracer
from tests.kernels.patience import factor

FAR = ("10.250.0.9", 80)
"""Nobody."""
SYN = 0x02
OPEN_S = 3.0
HOUR_S = 3600.0
PATIENCE_S = 10.0 * factor()
OWN_MACHINE = "ZTUN_KERNELS_OWN_MACHINE"
"""Where it is set, the clock is nobody else's."""


def told(pins: Path, pod: Path) -> Iterator[tuple[bool, str]]:
    """Facts about the one pod that is captured; `pod` is its network namespace. Runs in the node's."""
    with (
        Maps(pins) as maps,
        closing(Tracer(maps, pins, TraceFilter())) as tracer,
        closing(SynRing(os.dup(tracer.ring_fd))) as ring,
    ):

        def exit_of_a_syn() -> str:
            return _exit_of_a_syn(pod, tracer, ring)

        left_by = exit_of_a_syn()
        yield left_by == "from_pod/NO_LISTENER", f"the programs tell of a SYN of the pod: {left_by}"
        if OWN_MACHINE in os.environ:
            for ahead_s in (HOUR_S, -HOUR_S):
                meanwhile, after = _opened(maps, ahead_s, exit_of_a_syn)
                ends_in_time = (meanwhile, after) == ("from_pod/OPEN_SYN", "from_pod/NO_LISTENER")
                hours = f"the clock is set by {ahead_s / HOUR_S:+g} h"
                yield (
                    ends_in_time,
                    f"{hours}: a bypass goes on to its end ({meanwhile}) and is over ({after})",
                )


def _opened(maps: Maps, ahead_s: float, exit_of_a_syn: Callable[[], str]) -> tuple[str, str]:
    """By which exits a SYN leaves while the pod is open and the clock has been set, and when that is over."""
    (target,) = break_glass.targets(maps).values()
    opening = break_glass.begin(maps, target, OPEN_S, "test", "the clock is set")
    with _clock_set(ahead_s):
        meanwhile = exit_of_a_syn()
        while (left_s := (opening.until_ns - now_ns()) / 1e9) > 0:
            time.sleep(left_s)
        return meanwhile, exit_of_a_syn()


@contextmanager
def _clock_set(ahead_s: float) -> Iterator[None]:
    """`date -s`: of the whole machine."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + ahead_s)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - ahead_s)


def _exit_of_a_syn(pod: Path, tracer: Tracer, ring: SynRing) -> str:
    """PROGRAM/REASON of the first thing that is told of a new connection's SYN."""
    tracer.keep()
    with netns.entered(pod):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with sock:
        sock.connect_ex(FAR)
        own_port = sock.getsockname()[1]
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            for event in map(TraceEvent.decode, ring.take(1000)):
                if event.sport == own_port and event.tcp_flags & SYN:
                    reason = REASONS[event.reason]
                    return f"{reason.program}/{reason.name}"
            time.sleep(0.01)
            tracer.keep()
    return "nothing"
