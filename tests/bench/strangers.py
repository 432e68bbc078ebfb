"""What a crowd of strangers at the second proxy costs others: new connections, those that live, members, and memory.

In each round, for each kind of stranger and each system: a quiet time, and one of the same length with a crowd. So what
the machine does meanwhile meets both, and all systems. Ratios are taken within a pair.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from agent.lab.wiring import UPLINK
from redirect.netns import entered
from tests.bench import accounting
from tests.bench.crowd import ADDRESSES, NETWORK, PER_S, Served, Shaken
from tests.bench.rounds import BenchError, Client, Samples, end, line
from tests.bench.systems import APP_PORT, Stage, System

COUNT, QUICK_COUNT = 20_000, 4_000
FORGET_S = 60.0
SPARE_BYTES = 2_000_000
"""Memory that comes and goes with anything."""
LOOK_S = 0.5
"""How often memory is looked at while there is a crowd."""
SETTLE_S = 1.0
WARM_UP_S = 1.0
KINDS = {"half-open": "half", "garbage": "garbage", "begun": "begun"}
"""What they say, by `crowd.WORDS`, and how that is called in metrics."""
USUAL_KINDS = ("half-open", "garbage")
NOBODY = "nobody"
"""The same crowd at a port that nobody has, of a pod without a proxy: what its making alone costs the others."""
CLOSED_PORT = APP_PORT + 1


@dataclass(frozen=True, slots=True)
class Phase:
    """One time, quiet or not."""

    served: Served
    shaken: Shaken
    cpu_s: float
    most_bytes: int


class Strangers:
    """Run it last: it leaves a crowd's traces."""

    def __init__(
        self,
        stage: Stage,
        tell: Callable[[str], None],
        *,
        count: int = COUNT,
        rounds: int = 1,
        kinds: tuple[str, ...] = USUAL_KINDS,
    ) -> None:
        self._stage = stage
        self._tell = tell
        self._count = count
        self._rounds = rounds
        self._kinds = kinds
        self._systems = [system for system in stage.systems.values() if system.hbone is not None]
        self._lost = dict.fromkeys(stage.systems, 0)
        self._failed = dict.fromkeys(stage.systems, 0)
        self.samples: Samples = {name: {} for name in stage.systems}

    def run(self) -> Samples:
        """Every system behind a tunnel port."""
        for place in (place for topology in self._stage.topologies for place in topology.nodes.values()):
            last = 1 if place.name == "node-b" else 100
            with entered(place.netns), IPRoute() as ip:
                (index,) = ip.link_lookup(ifname=UPLINK)
                for n in range(1 if last == 1 else ADDRESSES):
                    ip.addr("add", index=index, address=f"{NETWORK}.{last + n}", prefixlen=24)
        before = {system.name: self._warm(system) for system in self._systems}
        for number in range(self._rounds):
            for kind in self._kinds:
                for system in self._systems:
                    self._pair(system, kind)
            for system in self._systems:
                self._alone(system)
            self._tell(f"round {number + 1} of {self._rounds} with strangers")
        for system in self._systems:
            left = self._forgotten(system, before[system.name])
            self._note(system, "strangers_memory", left / 1e6)
            # Of all rounds, where a median would forget some.
            self._note(system, "strangers_lost", self._lost[system.name])
            self._note(system, "strangers_failed", self._failed[system.name])
        return self.samples

    def _note(self, system: System, metric: str, value: float) -> None:
        self.samples[system.name].setdefault(metric, []).append(value)

    def _pair(self, system: System, kind: str) -> None:
        key = KINDS[kind]
        at_rest = accounting.pss_bytes(system.second)
        quiet, loud = self._beside(system, kind, *self._target(system))
        self._compare(system, key, f"{self._count} {kind}", quiet, loud)
        self._note(system, f"cpu_strangers_{key}", (loud.cpu_s - quiet.cpu_s) / self._count * 1e6)
        self._note(system, f"strangers_held_{key}", (loud.most_bytes - at_rest) / 1e6)
        self._lost[system.name] += loud.served.lost
        self._failed[system.name] += loud.served.failed + loud.shaken.failed

    def _alone(self, system: System) -> None:
        pod = self._stage.topology_of(system).pods["bench/bare-server"]
        quiet, loud = self._beside(system, "garbage", str(pod.address(4)), CLOSED_PORT)
        self._compare(system, NOBODY, f"{self._count} at a port that nobody has", quiet, loud)

    def _beside(self, system: System, kind: str, host: str, port: int) -> tuple[Phase, Phase]:
        """A quiet time, and one with a crowd that dials there."""
        quiet = self._phase(system, self._count / PER_S)
        netns = self._stage.topology_of(system).nodes["node-a"].netns
        crowd = self._start(system, netns, "crowd", host, port, kind, str(self._count))
        try:
            if line(crowd) != b"begin":
                raise BenchError(f"{system.name}: the crowd did not come")
            loud = self._phase(system, self._count / PER_S)
        finally:
            end(crowd)
        time.sleep(SETTLE_S)
        return quiet, loud

    def _compare(self, system: System, key: str, crowd: str, quiet: Phase, loud: Phase) -> None:
        served, shaken = loud.served, loud.shaken
        self._tell(
            f"{system.name}, {crowd}: p99 in us, quiet and crowd:"
            f" new {quiet.served.p99_us:.0f} {served.p99_us:.0f},"
            f" open {quiet.served.live_p99_us:.0f} {served.live_p99_us:.0f},"
            f" handshakes {quiet.shaken.p99_us:.0f} {shaken.p99_us:.0f}"
        )
        self._note(system, f"strangers_{key}", served.p99_us / quiet.served.p99_us)
        self._note(system, f"strangers_live_{key}", served.live_p99_us / quiet.served.live_p99_us)
        self._note(system, f"strangers_members_{key}", shaken.p99_us / quiet.shaken.p99_us)

    def _warm(self, system: System) -> int:
        """What the second proxy holds once it has served everybody but strangers."""
        self._phase(system, WARM_UP_S)
        return accounting.pss_bytes(system.second)

    def _phase(self, system: System, length_s: float) -> Phase:
        assert system.hbone is not None
        seconds = str(length_s)
        before_s = accounting.cpu_s(system.second)
        bare, credentials = system.hbone.client.netns, str(system.hbone.credentials)
        clients = [
            self._start(system, system.client.netns, "newcomers", *system.target, seconds),
            self._start(system, bare, "members", *self._target(system), seconds, credentials),
        ]
        try:
            most = 0
            while any(client.poll() is None for client in clients):
                most = max(most, accounting.pss_bytes(system.second))
                time.sleep(LOOK_S)
            said = [json.loads(line(client) or "null") for client in clients]
        finally:
            for client in clients:
                end(client)
        if None in said:
            raise BenchError(f"{system.name}: newcomers or members were not served at all")
        used_s = accounting.cpu_s(system.second) - before_s
        return Phase(Served(**said[0]), Shaken(**said[1]), used_s, most)

    def _forgotten(self, system: System, before: int) -> float:
        """Bytes that the second proxy holds more than before, within a minute."""
        until_s = time.monotonic() + FORGET_S
        while (more := accounting.pss_bytes(system.second) - before) > SPARE_BYTES:
            if time.monotonic() > until_s:
                break
            time.sleep(1.0)
        return max(0.0, float(more))

    def _target(self, system: System) -> tuple[str, int]:
        """The tunnel port of its second proxy."""
        assert system.hbone is not None
        return system.hbone.target

    def _start(self, system: System, netns: Path, mode: str, host: str, port: int, *arguments: str) -> Client:
        command = [sys.executable, "-m", "tests.bench.crowd", mode, host, str(port)]
        command += [*arguments, str(self._stage.core("node-a"))]
        processes = self._stage.topology_of(system).processes
        return processes.start(f"{mode}-{system.name}", netns, command, stdout=subprocess.PIPE)
