"""Many agents at one embedded control plane at once: `scripts/bench storm [AGENTS [PODS [SERVICES]]]`.

`ztun control-plane` in a process of its own serves the mesh of `scripts/bench translate`. So many agents open their
streams in the same moment, and each takes the whole mesh and acknowledges it; then one policy changes, and one pod, and
all hear of it; then all come back at once with what they hold. Of each: how long it took to the last agent, CPU time
of the control plane, and the most memory it has had by then. The agents' ends are in processes of their own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil

from agent.controlplane.serve import tokens
from agent.pb import xds_pb2
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, TYPES
from tests.bench.load import say
from tests.bench.translate import fill, pod, policy

AGENTS, PODS, SERVICES = 100, 20_000, 2_000
CROWDS = 2
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Agent:
    """One stream at a time. `held` are versions by name, for each type; `heard` how many answers of each.

    `broken`: how many streams have ended by themselves.
    """

    def __init__(self) -> None:
        self.held: dict[str, dict[str, str]] = {type_url: {} for type_url in TYPES}
        self.heard: dict[str, int] = dict.fromkeys(TYPES, 0)
        self.broken = 0

    async def run(self, address: str, root: bytes, token: str, changed: Callable[[], None]) -> None:
        """Streams, one after the other, until cancelled: one that breaks is followed by another, as an agent's is."""
        while True:
            try:
                await self._stream(address, root, token, changed)
            except grpc.aio.AioRpcError:
                self.broken += 1
                await asyncio.sleep(0.5)

    async def _stream(self, address: str, root: bytes, token: str, changed: Callable[[], None]) -> None:
        options = [
            ("grpc.ssl_target_name_override", "istiod.istio-system.svc"),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        credentials = grpc.ssl_channel_credentials(root)
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            call = channel.stream_stream(
                METHOD,
                request_serializer=xds_pb2.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=xds_pb2.DeltaDiscoveryResponse.FromString,
            )(metadata=(("authorization", f"Bearer {token}"),))
            for type_url in (AUTHORIZATION, ADDRESS):
                first = xds_pb2.DeltaDiscoveryRequest(type_url=type_url)
                first.initial_resource_versions.update(self.held[type_url])
                await call.write(first)
            while (response := await call.read()) is not grpc.aio.EOF:
                self._take(response)
                changed()
                await call.write(
                    xds_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                )
            raise RuntimeError(f"the stream ended: {await call.details()}")

    def _take(self, response: xds_pb2.DeltaDiscoveryResponse) -> None:
        held = self.held[response.type_url]
        for each in response.resources:
            held[sys.intern(each.name)] = sys.intern(each.version)
        for name in response.removed_resources:
            held.pop(name, None)
        self.heard[response.type_url] += 1


async def crowd(address: str, root: bytes, given: list[str]) -> None:
    """Agents with these tokens, told by lines of the input: `open`, `hear` (one more answer of a type), `again`."""
    agents = [Agent() for _ in given]
    news = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        streams: list[asyncio.Task[None]] = []
        while order := (await asyncio.to_thread(sys.stdin.readline)).split():
            if order[0] in ("open", "again"):
                for task in streams:
                    task.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
                for agent in agents:
                    agent.heard = dict.fromkeys(TYPES, 0)
                streams = [
                    group.create_task(agent.run(address, root, token, news.set))
                    for agent, token in zip(agents, given, strict=True)
                ]
            wanted = dict.fromkeys(TYPES, 1) if len(order) == 1 else {order[1]: int(order[2])}
            while any(agent.heard[kind] < count for agent in agents for kind, count in wanted.items()):
                news.clear()
                await news.wait()
            held = {(len(agent.held[ADDRESS]), len(agent.held[AUTHORIZATION])) for agent in agents}
            say(f"{order[0]} {sorted(held)} {sum(agent.broken for agent in agents)} broke")
        for task in streams:
            task.cancel()


class Crowd:
    """Such a process."""

    def __init__(self, address: str, root: Path, given: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.storm", "crowd", address, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(" ".join(given))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def done(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "a crowd has ended"
        return line.strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Storm:
    """Crowds at a control plane, and what it spends."""

    def __init__(self, plane: subprocess.Popen[str], crowds: list[Crowd]) -> None:
        self._plane, self._crowds = psutil.Process(plane.pid), crowds

    def measure(self, what: str, order: str, before: Callable[[], object] = lambda: None) -> None:
        spent = self._plane.cpu_times()
        began_s = time.monotonic()
        before()
        for each in self._crowds:
            each.tell(order)
        held = {each.done().partition(" ")[2] for each in self._crowds}
        took_s = time.monotonic() - began_s
        now = self._plane.cpu_times()
        cpu_s = now.user + now.system - spent.user - spent.system
        say(
            f"{what}: {took_s:.1f} s, CPU {cpu_s:.1f} s; {self.peak_mib():.0f} MiB at most, "
            f"{self._plane.memory_info().rss / 2**20:.0f} now; held (addresses, policies), streams: "
            + ", ".join(sorted(held))
        )

    def peak_mib(self) -> float:
        """VmHWM, begun anew each time."""
        status = Path(f"/proc/{self._plane.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        Path(f"/proc/{self._plane.pid}/clear_refs").write_text("5")
        return peak / 1024


def main(agents: int = AGENTS, pods: int = PODS, services: int = SERVICES) -> None:
    with tempfile.TemporaryDirectory(prefix="ztun-storm-") as made, ExitStack() as stack:
        root = Path(made)
        manifests, state = root / "manifests", root / "state"
        manifests.mkdir()
        objects = fill(manifests, pods, services)
        say(f"{objects} objects, {agents} agents")
        given = [tokens.issue(state, f"node-{n}").read_text().strip() for n in range(agents)]
        plane = stack.enter_context(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "agent", "control-plane", "--manifests", str(manifests)),
                    *("--state-dir", str(state), "--listen", "127.0.0.1:0", "--metrics-address", "off"),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(plane.kill)
        assert plane.stdout is not None
        address = plane.stdout.readline().split()[-1]
        crowds = [Crowd(address, state / "root.pem", given[n::CROWDS]) for n in range(CROWDS)]
        for each in crowds:
            stack.callback(each.close)
        storm = Storm(plane, crowds)
        say(f"alone: {storm.peak_mib():.0f} MiB at most")
        storm.measure("all at once", "open")
        storm.measure(
            "one pod", f"hear {ADDRESS} 2", lambda: replace(manifests / "pod.yaml", pod(0, services, "2"))
        )
        storm.measure(
            "one policy",
            f"hear {AUTHORIZATION} 2",
            lambda: replace(manifests / "policy.yaml", policy(0, "x")),
        )
        storm.measure("all again", "again")


def replace(path: Path, text: str) -> None:
    path.with_suffix(".draft").write_text(text)
    path.with_suffix(".draft").rename(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["crowd"]:
        asyncio.run(crowd(sys.argv[2], Path(sys.argv[3]).read_bytes(), sys.stdin.readline().split()))
    else:
        main(*map(int, sys.argv[1:]))
