"""What a large mesh costs each process of a node: `scripts/bench scale [WORKLOADS [SERVICES]]`.

A worker and a control process as far as state goes (orders or mesh state, store, indexes), each in a process of its
own that is told of a tenth of the mesh, then of all of it: bytes for each workload and service (what the process holds
more, PSS), the time to take them in, and how long lookups take in both. How long a worker stands still while workloads
arrive is measured by `tests.bench.pushes`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from agent.mesh_state import MeshState, batch_of, decoding
from agent.model.steps import to_the_end
from agent.pb import workload_pb2
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.wire.xds_delta import ADDRESS
from tests.bench import accounting
from tests.bench.load import say
from tests.bench.pushes import resources

WORKLOADS, SERVICES = 100_000, 10_000
LOOKUPS = 20_000
RESPONSE = 5_000
FEW = 10
"""The part of the mesh that lookups are compared with."""

Resource = tuple[str, bytes]


def services(count: int) -> list[Resource]:
    """Names and bytes of Services as istiod describes them."""
    made = []
    for n in range(count):
        namespace, app = f"ns{n % 50}", f"app{n}"
        hostname = f"{app}.{namespace}.svc.cluster.local"
        service = workload_pb2.Service(name=app, namespace=namespace, hostname=hostname)
        service.addresses.add(address=bytes([172, 16 + (n >> 16), n >> 8 & 255, n & 255]))
        service.ports.add(service_port=80, target_port=8080)
        made.append((f"{namespace}/{hostname}", workload_pb2.Address(service=service).SerializeToString()))
    return made


class Worker:
    """Decodes and applies as a worker's orders do."""

    def __init__(self) -> None:
        self.store = Store(Snapshot(node="node-1"))

    def take(self, updates: Sequence[Resource]) -> None:
        decoded, refused = to_the_end(decoding(ADDRESS, dict(updates)))
        assert not refused
        to_the_end(self.store.applying(batch_of(ADDRESS, decoded, (), {})))


class Control:
    """Holds the bytes as well, for workers that come later."""

    def __init__(self) -> None:
        self.store = Store(Snapshot(node="node-1"))

        async def applied(_: int) -> None:
            return

        self._mesh = MeshState(self.store, lambda message: None, applied)

    def take(self, updates: Sequence[Resource]) -> None:
        asyncio.run(self._mesh.accept(ADDRESS, dict(updates), ()))


def tell(process: Worker | Control, updates: Sequence[Resource]) -> None:
    """In responses of RESPONSE resources, each of objects that nobody else holds."""
    for at in range(0, len(updates), RESPONSE):
        process.take(
            [(name.encode().decode(), bytes(bytearray(raw))) for name, raw in updates[at : at + RESPONSE]]
        )


def held_bytes() -> int:
    gc.collect()
    return accounting.pss_bytes([os.getpid()])


def lookup_us(snapshot: Snapshot, count: int) -> float:
    """Of the workload and the service at an address, each of `count` in turn."""
    pods = [IPv4Address(10 << 24 | n * count // LOOKUPS) for n in range(LOOKUPS)]
    began_s = time.thread_time()
    for pod in pods:
        workload = snapshot.workload_at("", pod)
        assert workload is not None
        snapshot.service_at("", pod, workload.namespace)
    return (time.thread_time() - began_s) / LOOKUPS * 1e6


def measure(name: str, made: Callable[[], Worker | Control], workloads: int, vips: int) -> None:
    few = workloads // FEW
    everything = (resources(workloads, "v1"), services(vips))
    part, rest = [updates[: len(updates) // FEW] for updates in everything], everything
    process = made()
    for updates in part:
        tell(process, updates)
    slow_us = lookup_us(process.store.current, few)
    text = f"{name}: lookup in {few} {slow_us:.1f} us"
    for what, updates, told in zip(("workload", "service"), rest, part, strict=True):
        before, began_s = held_bytes(), time.thread_time()
        tell(process, updates[len(told) :])
        took_s = time.thread_time() - began_s
        each = (held_bytes() - before) / (len(updates) - len(told))
        text += f"; {each:.0f} B and {took_s / (len(updates) - len(told)) * 1e6:.0f} us CPU a {what}"
    say(f"{text}; lookup in {workloads} {lookup_us(process.store.current, workloads):.1f} us")


def main() -> None:
    given = list(map(int, sys.argv[1:]))
    workloads, vips = [*given, *(WORKLOADS, SERVICES)[len(given) :]]
    for name, made in (("worker", Worker), ("control", Control)):
        child = os.fork()
        if not child:
            measure(name, made, workloads, vips)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{name}: status {status}")


if __name__ == "__main__":
    main()
