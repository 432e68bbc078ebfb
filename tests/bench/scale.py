"""What a large mesh costs each process of a node: `scripts/bench scale [WORKLOADS [SERVICES]]`.

A worker and a control process as far as state goes (orders, or discovery and mesh state; store, indexes), each in a
process of its own that is told of a tenth of the mesh, then of all of it: bytes for each workload and service (what the
process holds more, PSS), the time to take them in, and how long lookups take in both: of what was asked for before, and
of what was not. How long a worker stands still while workloads arrive is measured by `tests.bench.pushes`. Run in
another tree it measures that one.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from agent.mesh_state import MeshState, batch_of, decoding
from agent.model.steps import to_the_end
from agent.pb import workload_pb2
from agent.pb.xds_pb2 import DeltaDiscoveryResponse
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.wire.xds_delta import ADDRESS, XdsDelta, make_node
from tests.bench import accounting
from tests.bench.load import say
from tests.bench.pushes import resources

WORKLOADS, SERVICES = 100_000, 10_000
SERVICES_ALONE = 6
LOOKUPS, WARM = 20_000, 1_000
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
        to_the_end(self.store.applying(batch_of(ADDRESS, decoded, ())))


class Control:
    """Accepts responses as they come, and knows the versions for the next stream."""

    def __init__(self) -> None:
        self.store = Store(Snapshot(node="node-1"))
        self._delta = XdsDelta(
            make_node(ip="10.0.0.1", pod="ztun", namespace="ztun-system", node_name="node-1")
        )
        self._delta.open()

        async def applied(_: int) -> None:
            return

        self._mesh = MeshState(self.store, lambda message: None, applied)

    def take(self, updates: Sequence[Resource]) -> None:
        response = DeltaDiscoveryResponse(type_url=ADDRESS)
        for name, raw in updates:
            response.resources.add(
                name=name, version=hashlib.sha256(raw).hexdigest()[:16]
            ).resource.value = raw
        received = self._delta.receive(response)
        self._delta.settle(received, asyncio.run(self._mesh.accept_response(received)))


def tell(process: Worker | Control, updates: Sequence[Resource]) -> None:
    """In responses of RESPONSE resources, each of objects that nobody else holds."""
    for at in range(0, len(updates), RESPONSE):
        process.take(
            [(name.encode().decode(), bytes(bytearray(raw))) for name, raw in updates[at : at + RESPONSE]]
        )


def held_bytes() -> int:
    gc.collect()
    return accounting.pss_bytes([os.getpid()])


def lookup_us(snapshot: Snapshot, addresses: int, lookups: int = LOOKUPS) -> float:
    """Of the workload and the service at an address, each of so many in turn."""
    pods = [IPv4Address(10 << 24 | n * addresses // lookups) for n in range(lookups)]
    began_s = time.thread_time()
    for pod in pods:
        workload = snapshot.workload_at("", pod)
        assert workload is not None
        snapshot.service_at("", pod, workload.namespace)
    return (time.thread_time() - began_s) / lookups * 1e6


def lookups(snapshot: Snapshot, addresses: int) -> str:
    first_us = lookup_us(snapshot, addresses)
    lookup_us(snapshot, WARM, WARM)
    again_us = min(lookup_us(snapshot, WARM, WARM) for _ in range(20))
    return f"lookup in {addresses}: first {first_us:.1f}, again {again_us:.2f} us"


def measure(name: str, made: Callable[[], Worker | Control], workloads: int, vips: int) -> None:
    """Services alone are told of by halves, so that what is remembered of a fixed number is full before."""
    few = FEW if workloads else 2
    everything = (resources(workloads, "v1", vips), services(vips))
    told = [updates[: len(updates) // few] for updates in everything]
    process = made()
    for updates in told:
        tell(process, updates)
    texts = [lookups(process.store.current, workloads // few)] if workloads else []
    before, began_s = held_bytes(), time.thread_time()
    rest = [updates[len(part) :] for updates, part in zip(everything, told, strict=True)]
    for updates in rest:
        tell(process, updates)
    took_s = time.thread_time() - began_s
    count = sum(map(len, rest))
    texts += [
        f"{count} more: {(held_bytes() - before) / count:.0f} B and {took_s / count * 1e6:.0f} us CPU each"
    ]
    if workloads:
        texts += [lookups(process.store.current, workloads)]
    say(f"{name}, {workloads} workloads and {vips} services: {'; '.join(texts)}")


def main() -> None:
    given = list(map(int, sys.argv[1:]))
    workloads, vips = [*given, *(WORKLOADS, SERVICES)[len(given) :]]
    for name, made in (("worker", Worker), ("control", Control)):
        for pods, count in ((workloads, vips), (0, SERVICES_ALONE * vips)):
            child = os.fork()
            if not child:
                measure(name, made, pods, count)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                sys.exit(f"{name}: status {status}")


if __name__ == "__main__":
    main()
