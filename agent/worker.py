"""The worker process: WIRING ONLY. Builds loop and sockets for the data plane, serves its channel, runs until drained.

Started by the control process through `redirect.spawn`, in a session of its own, so that it outlives it. One thread
for each private namespace makes sockets there; everything else runs in one loop. Rights go before anything but those
two threads exists: capabilities are a thread's own, and a new thread has those of its maker.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import signal
import socket
import sys
import time
from functools import partial
from typing import NamedTuple

import agent.identity.ticketless  # noqa: F401 - first: before anything that imports `cryptography`
from agent import channel
from agent import config as configuration
from agent.build import require
from agent.config import Config
from agent.fd_limit import raise_fd_limit, with_reserve
from agent.handover.hands import Hands
from agent.log import ProcessLog, set_up_log
from agent.log_levels import initial
from agent.memory_order import before_control
from agent.model.address import parse_ip
from agent.net import limit_table
from agent.net.frames import FrameSender
from agent.net.loop import Loop
from agent.net.outer_loop import OuterLoop
from agent.net.sockets import SideSockets
from agent.privileges import CAP_NET_BIND_SERVICE, CAP_NET_RAW, keep_only, refuse_core_dumps
from agent.proxy.dataplane import DataPlane, Outside, Senders
from agent.proxy.delivery import ProxyAddresses
from agent.proxy.drain import Drain
from agent.proxy.orders import Orders
from agent.supervisor.control_link import ControlLink
from agent.telemetry import families
from agent.telemetry.access_log import lost_line
from agent.telemetry.line_writer import LineWriter
from agent.telemetry.metrics import Metrics
from redirect import child
from redirect.side import Side, sides_of

log = logging.getLogger(__name__)

STATS_EVERY_S = 1.0
LEAVE_PATIENCE_S = 5.0
"""How long a worker that was asked to end waits for its successor."""
PROXY = ProxyAddresses(parse_ip("169.254.77.1"), parse_ip("fd7a:7475:6e::1"))


class Sides(NamedTuple):
    """Sockets that reach pods, and sockets that reach the network."""

    pod: SideSockets
    net: SideSockets

    senders: tuple[FrameSender, ...] = ()
    """Of frames, by the device of each side; where SYNs may be held."""

    @classmethod
    def entered(cls, pod_netns: str | None, net_netns: str | None, config: Config) -> Sides:
        """In their namespaces, and without the rights that entering took. Raises OSError."""
        senders: list[FrameSender] = []

        def in_side(netns_path: str | None, side: Side) -> SideSockets:
            def once_inside() -> None:
                keep_only(CAP_NET_RAW)
                if config.honest_connect != "off":
                    senders.append(FrameSender(side.ifname))

            return SideSockets(netns_path, transparent=True, once_inside=once_inside)

        pod, net = map(in_side, (pod_netns, net_netns), sides_of(config.instance))
        return cls(pod, net, tuple(senders))


class Worker:
    """Everything of one worker process."""

    def __init__(
        self, config: Config, slot: int, version: str, build: str, sides: Sides, process_log: ProcessLog
    ) -> None:
        self.loop = Loop(time.monotonic, self._crashed)
        self.stopped = asyncio.Event()
        as_json = config.log_format == "json"
        self._lines = LineWriter(sys.stdout.fileno(), lambda count: lost_line(count, time.time(), as_json))
        self._sides = sides
        metrics = Metrics(f"{slot}-{os.getpid()}-{time.time_ns()}")
        metrics.figures.ask(
            lambda: [
                (families.LOG_LINES_LOST, ("access",), self._lines.lost),
                (families.LOG_LINES_LOST, ("process",), process_log.lost),
            ]
        )
        outside = Outside(
            self.loop,
            sides.pod,
            sides.net,
            PROXY,
            metrics,
            self._lines.write,
            random.Random(random.SystemRandom().getrandbits(64)),
            frames=Senders(*sides.senders) if sides.senders else None,
            limit_table=config.directory / limit_table.NAME,
            may_load=partial(require, build),
        )
        plane = DataPlane(config, outside)

        def drain(deadline_s: float) -> None:
            self.drain.start(deadline_s)

        self.hands = Hands(plane, lambda: self.orders.stop_accepting(), drain)
        self.orders = Orders(
            plane,
            slot,
            version,
            drain,
            self.hands,
            config.drain_deadline_s,
            log_levels=initial(config.log_level),
        )
        self.drain = Drain(plane, self.orders.stop_accepting, self.stopped.set, lambda: self.hands.are_busy)

    def close(self) -> None:
        self.loop.detach()
        self.loop.close()
        for side in (self._sides.pod, self._sides.net):
            side.close()
        for sender in self._sides.senders:
            sender.close()
        self._lines.close()

    def _crashed(self, error: BaseException, fd: int | None) -> None:
        log.error("a connection was dropped by a defect (fd %s)", fd, exc_info=error)


async def run(config: Config, worker: Worker, listening: socket.socket) -> None:
    """Serve until drained. `listening` is the unix socket on which control processes connect."""
    link = ControlLink(worker.orders)
    worker.hands.report = lambda: link.report(worker.orders.stats)
    running = asyncio.get_running_loop()
    # Again, after the control process that bound it: from here on the kernel names this process to who connects.
    listening.listen()

    def control_came() -> None:
        with with_reserve():
            sock, _ = listening.accept()
        link.connected(sock)

    running.add_reader(listening, control_came)

    def leave() -> None:
        """Control has somebody else serve before this worker stops; without it, it stops by itself."""
        link.send(channel.Leaving())
        patience_s = LEAVE_PATIENCE_S if link.is_connected else 0.0
        running.call_later(patience_s, worker.drain.start, config.drain_deadline_s)

    for signum in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(signum, leave)
    # Objects made so far live for ever: keep the collector from walking them again and again.
    gc.collect()
    gc.freeze()
    try:
        while not worker.stopped.is_set():
            link.report(worker.orders.stats)
            try:
                async with asyncio.timeout(STATS_EVERY_S):
                    await worker.stopped.wait()
            except TimeoutError:
                continue
        link.send(worker.orders.stats())
        worker.hands.end()
    finally:
        link.stop()
        running.remove_reader(listening)
        listening.close()
        worker.close()


def main() -> None:
    """`--slot` N, `--config` JSON of the agent's options, `--version` by which control processes know their own.

    `--build` that this process is; `--channel-fd` of a unix socket to accept control processes on; where there are
    namespaces, `--pod-netns` and `--net-netns`.
    """
    # While it has the rights of control, which finds it by the namespaces of its threads.
    refuse_core_dumps(is_looked_at=True)
    told = child.flags(sys.argv[1:])
    slot = int(told["slot"])
    config = configuration.build(json.loads(told["config"]))
    sides = Sides.entered(told.get("pod-netns"), told.get("net-netns"), config)
    # All that this thread still needs, and with it every thread that is made from here on.
    keep_only(CAP_NET_BIND_SERVICE)
    process_log = set_up_log(config.log_level, config.log_format, f"worker-{slot}")
    raise_fd_limit()
    before_control()
    listening = socket.socket(fileno=int(told["channel-fd"]))
    listening.setblocking(False)
    worker = Worker(config, slot, told["version"], told["build"], sides, process_log)
    with asyncio.Runner(loop_factory=partial(OuterLoop, worker.loop)) as runner:
        runner.run(run(config, worker, listening))
