"""The steps of the quickstart: each does something a user would do, checks what follows, and says it in a line.

A fact that does not hold is said as loudly as one that does, and the run goes on, so that a broken
installation shows all that is wrong with it. The lab is real: namespaces, agents, captures, TLS.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from agent.lab import probes
from agent.lab.agents import ZTUN, LabMesh
from agent.lab.capture import LinkCapture
from agent.lab.topology import PodPlace
from redirect import child
from redirect.netns import entered

MARKER = "attack-at-dawn"
PORT = 8080
TIMEOUT_S = 5.0
POLICY = """\
# Dropped in by the quickstart: nobody but the account `client` may talk to the server on node-b.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-NAME, namespace: demo}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/demo/sa/NAME"]}
"""


class Story:
    """Carries the steps out against a mesh that is up. `failures` counts the facts that did not hold."""

    def __init__(self, mesh: LabMesh, say: Callable[[str], None], monotonic: Callable[[], float]) -> None:
        self.mesh = mesh
        self.failures = 0
        self._say = say
        self._monotonic = monotonic

    def fact(self, holds: bool, text: str) -> None:
        self.failures += not holds
        self._say(f"  {'ok  ' if holds else 'FAIL'} {text}")

    def pod(self, name: str) -> PodPlace:
        return self.mesh.topology.pods[f"demo/{name}"]

    def start_servers(self) -> None:
        for name in ("server-a", "server-b"):
            argv = child.command("agent.lab.probes", "marker", "--port", str(PORT))
            self.mesh.topology.processes.start_ready(name, self.pod(name).netns, argv)

    def request(self, client: str, host: str, port: int = PORT, timeout_s: float = TIMEOUT_S) -> str:
        """The client address the server saw, or why there was no answer."""
        with entered(self.pod(client).netns):
            try:
                return str(probes.request(host, port, timeout_s, MARKER)["client"])
            except (OSError, ValueError) as error:
                return f"no answer: {error}"

    def in_clear(self) -> None:
        """The control sample: without the mesh the marker crosses the link for all to read."""
        client, server = self.pod("client-a"), self.pod("server-b")
        with LinkCapture(self.mesh.topology.nodes["node-a"].netns, MARKER.encode()) as capture:
            saw = self.request("client-a", str(server.address(4)))
        self.fact(
            saw.startswith(str(client.address(4))), f"before enrolment: server-b sees client-a as {saw}"
        )
        self.fact(bool(capture.report().marker_seen), f"link, before: {capture.report()}")

    def enroll_all(self) -> None:
        pods = list(self.mesh.topology.pods.values())
        for pod in pods:
            answer = self.mesh.enroll(pod)
            self.fact(True, f"enrolled {pod.key} as {answer['identity']}")
        self.mesh.wait_announced(*pods)

    def encrypted(self) -> None:
        """The same requests through the mesh: between the nodes and inside one, IPv4 and IPv6, and by Service."""
        with LinkCapture(self.mesh.topology.nodes["node-a"].netns, MARKER.encode()) as capture:
            for server in ("server-b", "server-a"):
                for version in (4, 6):
                    self._address_is_kept("client-a", server, version)
            self._service("client-a")
        report = capture.report()
        clean = report.tls_records > 0 and report.other_segments == 0 and not report.marker_seen
        self.fact(clean, f"link, after: {report}")
        self._tunnels()

    def _address_is_kept(self, client: str, server: str, version: int) -> None:
        here, there = self.pod(client), self.pod(server)
        saw = self.request(client, str(there.address(version)))
        host = saw.rpartition(":")[0].strip("[]")
        where = "same node " if here.node == there.node else "cross node"
        self.fact(
            host == str(here.address(version)), f"{where} IPv{version}: {server} sees {client} as {saw}"
        )

    def _service(self, client: str) -> None:
        for vip in ("10.96.77.10", "fd77:96::10"):
            saw = self.request(client, vip, 80)
            self.fact(
                not saw.startswith("no answer"), f"Service {vip}:80 answers; the pod behind it saw {saw}"
            )

    def _tunnels(self) -> None:
        tunnels = [t for node in self.mesh.topology.nodes for t in self.mesh.ask(node, "GET", "/tunnels")]
        for local, peer in (("client", "server"), ("server", "client")):
            ends = [
                t
                for t in tunnels
                if t["identity"].endswith(f"/sa/{local}") and t["peer"].endswith(f"/sa/{peer}")
            ]
            text = f"{ends[0]['identity']} <- {ends[0]['peer']}" if ends else "none"
            self.fact(bool(ends), f"mutual TLS, {local} side: {text}")
        suites = sorted({f"{t['suite']} with {t['group']}" for t in tunnels})
        self.fact(bool(suites), f"negotiated: {', '.join(suites)}")

    def policy(self) -> None:
        """A policy file denies the next connection and ends a live one; removing it opens again."""
        server = self.pod("server-b")
        with entered(self.pod("client-a").netns):
            live = subprocess.Popen(
                child.command("agent.lab.probes", "hold", str(server.address(4)), str(PORT)),
                stdout=subprocess.PIPE,
                text=True,
            )
        assert live.stdout is not None
        live.stdout.readline()
        self._drop_policy("nobody")
        dropped_s = self._monotonic()
        live.wait(timeout=TIMEOUT_S)
        took_s = self._monotonic() - dropped_s
        live.stdout.close()
        self.fact(
            took_s < 1.0, f"policy dropped in: the live connection was closed after {took_s * 1000:.0f} ms"
        )
        denied = self.request("client-a", str(server.address(4)))
        self.fact(denied.startswith("no answer"), f"the next connection is denied: {denied}")
        self._drop_policy("client")
        self.fact(self._answers_within(1.0), "policy changed to allow the account `client`: it passes")
        for path in self.mesh.manifests.glob("policy-*.yaml"):
            path.unlink()
        self.fact(self._answers_within(1.0), "policy removed: it passes")

    def _drop_policy(self, account: str) -> None:
        for path in self.mesh.manifests.glob("policy-*.yaml"):
            path.unlink()
        (self.mesh.manifests / f"policy-{account}.yaml").write_text(POLICY.replace("NAME", account))

    def _answers_within(self, limit_s: float) -> bool:
        deadline = self._monotonic() + limit_s
        server = str(self.pod("server-b").address(4))
        while self._monotonic() < deadline:
            if not self.request("client-a", server).startswith("no answer"):
                return True
            time.sleep(0.02)
        return False

    def inspect(self) -> None:
        """The two commands an operator starts with, as they print."""
        for node in self.mesh.topology.nodes:
            instance, run_dir = self.mesh.instance(node), str(self.mesh.run_dir(node))
            if node == "node-a":
                for arguments in (("list",), ("dump", "pods")):
                    text = self._run("maps", *arguments, "--instance", instance, "--run-dir", run_dir)
                    alive = not text.startswith("exit")
                    self.fact(alive, f"ztun maps {' '.join(arguments)}, live from the kernel of {node}:")
                    self._say(_indented(text))
            line = self._run("status", "--instance", instance, "--run-dir", run_dir)
            self.fact(line.startswith("READY"), f"ztun status on {node}: {line.strip()}")

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*ZTUN, *arguments], capture_output=True, text=True, timeout=30, check=False)
        return (
            done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr or done.stdout}"
        )


def _indented(text: str) -> str:
    return "\n".join(f"       {line}" for line in text.splitlines())
