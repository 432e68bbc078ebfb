"""A mesh from its beginning to its end, on whatever kernel this is: one fact a line, and all of them as JSON in a file.

python -m tests.kernels.mesh FILE

The quickstart's lab and most of its story; then what only the kernel side can do: pods stay closed when every process
of ztun is dead, agents that come back serve them again, and who is let go has none of its connections left hanging.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil

from agent.lab import blueprint
from agent.lab.agents import LabMesh
from agent.lab.blueprint import QUICKSTART
from agent.lab.story import PORT, TIMEOUT_S, Story
from agent.lab.topology import Topology
from redirect.netns import entered
from tests.kernels.patience import factor

FACTOR = factor()
PATIENCE_S = 120.0 * FACTOR
LAB_PATIENCE_S = 900.0 * FACTOR
CLOSED_S = 3.0
"""How long a pod that must be closed is tried. A SYN is sent again after one second."""
CONNECTIONS, GONE = 20, 10
"""How many connections a pod has when it is let go, and how many of before are in TIME_WAIT then."""


class Account(Story):
    """The story of the quickstart, each fact noted; some of its steps with a slow machine's patience."""

    def __init__(self, mesh: LabMesh) -> None:
        super().__init__(mesh, self._print, time.monotonic)
        self.facts: list[dict[str, object]] = []

    def fact(self, holds: bool, text: str) -> None:
        self.facts.append({"holds": holds, "text": text})
        super().fact(holds, text)

    def _print(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def request(self, client: str, host: str, port: int = PORT, timeout_s: float = TIMEOUT_S) -> str:
        return super().request(client, host, port, timeout_s * FACTOR)

    def denied_and_allowed(self) -> None:
        """By a policy that is dropped in, and by its removal."""
        server = str(self.pod("server-b").address(4))
        self._drop_policy("nobody")
        self.fact(self.comes(lambda: not self.passes(server)), "a policy denies what it should")
        for path in self.mesh.manifests.glob("policy-*.yaml"):
            path.unlink()
        self.fact(self.comes(lambda: self.passes(server)), "without it that passes again")

    def closed_when_dead(self) -> None:
        """Everything of ztun is killed on both nodes at once."""
        for process in self._processes():
            process.send_signal(signal.SIGKILL)
        for node, server in (("node-b", "server-b"), ("node-a", "server-a")):
            for version in (4, 6):
                saw = self.request("client-a", str(self.pod(server).address(version)), timeout_s=CLOSED_S)
                self.fact(saw.startswith("no answer"), f"all of ztun is dead: IPv{version} to {node}: {saw}")

    def agents_again(self) -> None:
        self.mesh.start_control_plane()
        self.mesh.start_agents()
        for version in (4, 6):
            served = partial(self.passes, str(self.pod("server-b").address(version)))
            self.fact(self.comes(served), f"agents again: IPv{version} is served")

    def let_go(self) -> None:
        """A pod with connections open, and some in TIME_WAIT, leaves the mesh: each end hears of it."""
        client, server = self.pod("client-a"), self.pod("server-b")
        with ExitStack() as closing:
            where = (str(server.address(4)), PORT)
            with entered(client.netns):
                held = [
                    closing.enter_context(socket.create_connection(where, PATIENCE_S))
                    for _ in range(CONNECTIONS)
                ]
                for _ in range(GONE):
                    self.request("client-a", where[0])
            for sock in held:
                sock.sendall(b"hello\n")
                sock.recv(4096)
            self.mesh.unenroll(client)
            ended = sum(self._ends(sock) for sock in held)
        self.fact(ended == CONNECTIONS, f"let go: {ended} of {CONNECTIONS} open connections were ended")

    def status(self) -> None:
        for node in self.mesh.topology.nodes:
            told = self.mesh.status(node)
            limits = "; ".join(told["limits"]) or "nothing"
            self.fact(told["state"] == "READY", f"{node}: {told['line']}; limited: {limits}")

    def passes(self, server: str) -> bool:
        return not self.request("client-a", server).startswith("no answer")

    def comes(self, is_so: Callable[[], bool]) -> bool:
        """Whether it is so before patience ends."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := is_so()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return found

    def _processes(self) -> list[psutil.Process]:
        """Of ztun, whoever started them: agents, workers, nurseries, the control plane."""
        inodes = {os.stat(node.netns).st_ino for node in self.mesh.topology.nodes.values()}
        found = []
        for process in psutil.process_iter():
            try:
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino in inodes and process.pid != os.getpid():
                    found.append(process)
            except OSError:
                continue
        return found

    @staticmethod
    def _ends(sock: socket.socket) -> bool:
        sock.settimeout(PATIENCE_S)
        try:
            return sock.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def main() -> int:
    file = Path(sys.argv[1])
    topology = Topology(f"kn{os.getpid() % 10000}")
    mesh = LabMesh(topology, patience_s=LAB_PATIENCE_S)
    account = Account(mesh)
    try:
        topology.up(blueprint.read(QUICKSTART))
        mesh.start(QUICKSTART)
        steps = (
            account.start_servers,
            account.in_clear,
            account.enroll_all,
            account.encrypted,
            account.denied_and_allowed,
            account.inspect,
            account.status,
            account.closed_when_dead,
            account.agents_again,
            account.let_go,
        )
        for step in steps:
            step()
    except BaseException:
        sys.stdout.write(topology.journal.last_words() + "\n")
        raise
    finally:
        mesh.down()
        file.write_text(json.dumps(account.facts))
    left = [name for name in os.listdir("/run/netns") if name.startswith(topology.name)]
    account.fact(not left, f"removed; left in /run/netns: {left or 'nothing'}")
    file.write_text(json.dumps(account.facts))
    return 1 if account.failures else 0


if __name__ == "__main__":
    sys.exit(main())
