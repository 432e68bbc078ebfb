"""How long a worker serves nobody while many workloads arrive: `python -m tests.bench.pushes [COUNT]`.

The worker's end of the channel in this process, with its orders, state and loop; control is a child that pushes. First
all workloads are new, then all of them change. A timer every half millisecond stands for a live stream: the longest
time between two of its turns is the pause, in CPU time of the thread (what others on the machine take is not ours) and
on the clock. Beside it a connection that the worker relays is used (`pings`), before and meanwhile: a round trip comes
by the worker twice. Run in another tree it measures that one: run them in turns.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import select
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from agent import channel, config
from agent.channel_socket import Channel
from agent.model.address import SocketAddress, parse_ip
from agent.model.workload import Workload
from agent.net.loop import Loop
from agent.net.outer_loop import OuterLoop
from agent.net.sockets import SideSockets
from agent.pb import workload_pb2
from agent.proxy.dataplane import DataPlane, Outside
from agent.proxy.delivery import ProxyAddresses
from agent.proxy.pods import LocalPod
from agent.state.apply import Batch
from agent.supervisor.control_link import ControlLink
from agent.telemetry.metrics import Metrics
from agent.wire.xds_delta import ADDRESS
from tests.bench.load import say
from tests.bench.pings import Pings
from tests.support.datapath import stream_pair
from tests.support.loopback import ours
from tests.support.told_worker import orders_of

COUNT = 20_000
TICK_S = 0.0005
PART = 256
SETTLE_S = 0.5
BEFORE_S = 3.0


def resources(count: int, revision: str, apps: int = 400) -> list[tuple[str, bytes]]:
    """Names and bytes of pods as istiod describes them, each behind the Service of its app, on 500 nodes."""
    made = []
    for n in range(count):
        namespace, app, node = f"ns{n % apps % 50}", f"app{n % apps}", n // apps * 7 % 500
        pod = workload_pb2.Workload(
            uid=f"Kubernetes//Pod/{namespace}/pod-{n}",
            name=f"pod-{n}",
            namespace=namespace,
            service_account=f"sa{n % apps % 200}",
            node=f"node-{node}",
            addresses=[bytes([10, n >> 16, n >> 8 & 255, n & 255])],
            tunnel_protocol=workload_pb2.HBONE,
            canonical_name=app,
            canonical_revision=revision,
            workload_name=app,
            cluster_id="Kubernetes",
        )
        pod.locality.region, pod.locality.zone = "west", f"west-{node % 3}"
        pod.services[f"{namespace}/{app}.{namespace}.svc.cluster.local"].ports.add(
            service_port=80, target_port=8080
        )
        made.append((pod.uid, workload_pb2.Address(workload=pod).SerializeToString()))
    return made


def push(to: Channel, revision: int, updates: list[tuple[str, bytes]]) -> None:
    """As control does; a commit that knows no parts gets one message."""
    in_parts = "is_last" in channel.Resources.__dataclass_fields__
    size = PART if in_parts else len(updates)
    for at in range(0, len(updates), size):
        more = {"is_last": at + size >= len(updates)} if in_parts else {}
        to.send(channel.Resources(revision, ADDRESS, updates[at : at + size], **more))
        while to.wants_write:
            select.select([], [to.sock], [])
            to.flush()


class Pauses:
    """Ticks on the loop, and how long each kept the next waiting."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._last = (time.thread_time(), time.monotonic())
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []
        self._tick()

    def _tick(self) -> None:
        now = (time.thread_time(), time.monotonic())
        self.cpu_s.append(now[0] - self._last[0])
        self.wall_s.append(now[1] - self._last[1])
        self._last = now
        self._loop.later(TICK_S, self._tick)

    def say(self, what: str, took_s: float) -> None:
        cpu, wall = sorted(self.cpu_s), sorted(self.wall_s)
        p99 = len(cpu) * 99 // 100
        say(
            f"{what}: {took_s * 1e3:.0f} ms; pause of the worker:"
            f" CPU p99 {cpu[p99] * 1e3:.1f}, longest {cpu[-1] * 1e3:.1f} ms;"
            f" clock p99 {wall[p99] * 1e3:.1f}, longest {wall[-1] * 1e3:.1f} ms"
        )
        self.cpu_s, self.wall_s = [], []


def is_known(plane: DataPlane, name: str, revision: str) -> bool:
    pod = plane.store.current.workloads.get(name)
    return pod is not None and pod.canonical_revision == revision


async def measure(plane: DataPlane, order: Callable[[], object], count: int) -> None:
    """`order` has the other end push."""
    name = resources(count, "")[-1][0]
    pings = pinging(plane)
    gc.collect()
    gc.freeze()
    pauses = Pauses(plane.loop)
    await asyncio.sleep(BEFORE_S)
    pauses.say("nothing arrives", BEFORE_S)
    say(f"  {await asyncio.to_thread(pings.since_last)}")
    for revision in ("v1", "v2"):
        began_s = time.monotonic()
        order()
        while not is_known(plane, name, revision):  # noqa: ASYNC110 - the state tells nobody
            await asyncio.sleep(0.005)
        took_s = time.monotonic() - began_s
        await asyncio.sleep(SETTLE_S)
        pauses.say(f"{count} workloads, all {'new' if revision == 'v1' else 'changed'}", took_s)
        say(f"  {await asyncio.to_thread(pings.since_last)}")
    pings.end()


def pinging(plane: DataPlane) -> Pings:
    """Of a pod of this node, to somebody the mesh does not know."""
    pod = ours("1.1")
    here = Workload("uid", "client", "apps", (parse_ip(pod),), node="node-1")
    plane.store.apply(Batch(addresses=(here,)))
    plane.pods.replace([LocalPod(here.namespace, here.name, here.service_account, here.addresses)])
    listener = socket.create_server((ours("1.2"), 0))
    application, captured = stream_pair(pod)
    captured.setblocking(False)
    peer = SocketAddress.from_sockname(application.getsockname())
    plane.outbound.accepted(captured, peer, SocketAddress.from_sockname(listener.getsockname()))
    return Pings(application, listener)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    pushes = [resources(count, revision) for revision in ("v1", "v2")]
    controls, theirs = socket.socketpair()
    ordered, order = os.pipe()
    child = os.fork()
    if not child:
        theirs.close()
        to = Channel(controls)
        for revision, updates in enumerate(pushes, 1):
            os.read(ordered, 1)
            push(to, revision, updates)
        os.read(ordered, 1)
        os._exit(0)
    loop = Loop(time.monotonic, lambda error, fd: os._exit(f"{error!r}" and 1))
    sockets = SideSockets(None)
    proxy = ProxyAddresses(parse_ip("169.254.77.1"), parse_ip("fd7a:7475:6e::1"))
    outside = Outside(loop, sockets, sockets, proxy, Metrics("bench"), lambda line: None, random.Random(1))
    plane = DataPlane(config.build({"node": "node-1"}), outside)

    async def run() -> None:
        link = ControlLink(orders_of(plane))
        link.connected(theirs)
        await measure(plane, lambda: os.write(order, b"x"), count)
        link.stop()

    with asyncio.Runner(loop_factory=partial(OuterLoop, loop)) as runner:
        runner.run(run())
        loop.detach()
    os.write(order, b"x")
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
