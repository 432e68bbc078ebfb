"""The applications of the chaos lab as processes in its pods: who lives on, who comes anew, who is denied."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from redirect.netns import entered
from tests.bench.systems import HERE as BENCH
from tests.chaos.losses import Path
from tests.chaos.verdict import Visit
from tests.support.labmesh import World

HERE = FilePath(__file__).parent
PYTHON = (sys.executable, "-S", "-E")
LIVE_PORT, VISIT_PORT = 8091, 8090
PATHS = (
    Path("client-a", "server-b"),
    Path("client-b", "server-a"),
    Path("client-a", "server-a"),
)
DENIED_PATHS = (
    Path("spare-a", "server-b"),
    Path("spare-a", "server-a"),
    Path("outsider-b", "server-b"),
)
"""By its identity, twice, and by its address; the last one is not captured, and stays within its node."""
PATIENCE_S, DENIED_PATIENCE_S, DENIED_EVERY_S = 40.0, 10.0, 0.4
PACE_BYTES_PER_S = 200_000


class Told:
    """A process that says `ready`, and a JSON object for each line that it is given."""

    def __init__(self, world: World, pod: str, command: list[str]) -> None:
        with entered(world.pod(pod).netns):
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        self._says = f"{pod}: {' '.join(command[3:])}"
        if not self._line().startswith("ready"):
            raise RuntimeError(f"{self._says} did not get ready")

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            assert self._process.stderr is not None
            raise RuntimeError(f"{self._says} has ended: {self._process.stderr.read()[-2000:]}")
        return line

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


@dataclass(slots=True)
class Applications:
    """All of them. `close` ends them."""

    world: World
    calm: int
    every_s: float
    _live: dict[Path, Told] = field(default_factory=dict)
    _lost_before: dict[Path, Counter[str]] = field(default_factory=dict)
    _visits: dict[Path, Told] = field(default_factory=dict)
    _denied: dict[Path, Told] = field(default_factory=dict)
    _servers: dict[str, Told] = field(default_factory=dict)
    _denied_before: Counter[str] = field(default_factory=Counter)

    def serve(self) -> None:
        denied = sorted({self.world.address(path.client) for path in DENIED_PATHS})
        for name in ("server-a", "server-b"):
            survivors = [*PYTHON, str(BENCH / "survivors.py"), "serve", str(LIVE_PORT)]
            self.world.lab.processes.start_ready(
                f"survivors-{name}", self.world.pod(name).netns, survivors, timeout_s=60
            )
            command = [*PYTHON, str(HERE / "ends.py"), "serve", str(VISIT_PORT), *denied]
            self._servers[name] = Told(self.world, name, command)

    def visit(self) -> None:
        for path in PATHS:
            self._visits[path] = self._visitor(path, self.every_s, PATIENCE_S)
        for path in DENIED_PATHS:
            self._denied[path] = self._visitor(path, DENIED_EVERY_S, DENIED_PATIENCE_S)

    def revive(self) -> None:
        """Where a live connection was lost, all of its path are made anew."""
        for path in PATHS:
            if path in self._live and not self._lost_before[path]:
                continue
            if path in self._live:
                self._live.pop(path).end()
            address = self.world.address(path.server)
            command = [*PYTHON, str(BENCH / "survivors.py"), "live", address, str(LIVE_PORT)]
            command += [str(self.calm), "1", str(PACE_BYTES_PER_S)]
            self._live[path] = Told(self.world, path.client, command)
            self._lost_before[path] = Counter()

    def lost(self) -> tuple[dict[Path, Counter[str]], float]:
        """What was lost since the last time, and how long the oldest word waits for its answer."""
        found, oldest_s = {}, 0.0
        for path, live in self._live.items():
            told = live.ask()
            why = Counter(told["why"])
            found[path] = why - self._lost_before[path]
            self._lost_before[path] = why
            oldest_s = max(oldest_s, told["waits_s"])
        return found, oldest_s

    def visits(self) -> tuple[dict[Path, list[Visit]], float]:
        """Those that ended since the last time, and when the oldest began that goes on."""
        return _visits(self._visits)

    def denied_visits(self) -> dict[Path, list[Visit]]:
        return _visits(self._denied)[0]

    def denied_bytes(self) -> dict[str, int]:
        """Bytes since the last time that servers had of whom policy denies."""
        total: Counter[str] = Counter()
        for name, server in self._servers.items():
            total.update({f"{who} at {name}": size for who, size in server.ask()["denied"].items()})
        new, self._denied_before = total - self._denied_before, total
        return dict(new)

    def close(self) -> None:
        for tellers in (self._live, self._visits, self._denied, self._servers):
            for told in tellers.values():
                told.end()

    def _visitor(self, path: Path, every_s: float, patience_s: float) -> Told:
        command = [*PYTHON, str(HERE / "ends.py"), "visit", self.world.address(path.server), str(VISIT_PORT)]
        return Told(self.world, path.client, [*command, str(every_s), str(patience_s)])


def _visits(visitors: dict[Path, Told]) -> tuple[dict[Path, list[Visit]], float]:
    found, oldest_s = {}, float("inf")
    for path, visitor in visitors.items():
        told = visitor.ask()
        found[path] = [Visit(*row) for row in told["done"]]
        oldest_s = min([oldest_s, *told["open"]])
    return found, oldest_s
