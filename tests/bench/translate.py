"""What a large mesh costs the embedded control plane: `scripts/bench translate [PODS [SERVICES]]`.

Manifests of that many pods and Services and an eighth as many other objects (namespaces, nodes, policies, slices) in
files of 200, read, translated and published as `ztun control-plane` does it, in this process: CPU time of each step,
which others on the machine take none of. Then one object changes, of each kind in turn: CPU time from the file to what
is published, the median of several, and how many resources were made anew.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.controlplane.publication import Publication
from agent.controlplane.read.directory import ManifestDirectory
from agent.controlplane.serve.enrolment_service import EnrolledPods
from agent.controlplane.serve.publisher import Publisher
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.state_dir import StateDirectory
from agent.controlplane.translate.mesh import MeshSettings
from agent.model.address import parse_cidr
from tests.bench.load import say

PODS, SERVICES = 20_000, 2_000
IN_FILE = 200
NAMESPACES, NODES = 50, 500
ROUNDS = 7
RANGES = (parse_cidr("10.96.0.0/16"), parse_cidr("fd77:96::/112"))
POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: pod-{n}, namespace: ns{ns}, labels: {{app: app{app}, version: "{version}"}}}}
spec: {{nodeName: node-{node}, serviceAccountName: sa{sa}, containers: [{{name: main}}]}}
status: {{podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: "True"}}]}}
"""
SERVICE = """\
---
apiVersion: v1
kind: Service
metadata: {{name: app{n}, namespace: ns{ns}}}
spec: {{selector: {{app: app{n}}}, clusterIP: {ip}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}
"""
POLICY = """\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow-{n}, namespace: ns{ns}}}
spec:
  selector: {{matchLabels: {{app: app{n}}}}}
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/ns{ns}/sa/{sa}]}}}}]}}]
"""


def pod(n: int, apps: int, version: str = "1") -> str:
    app = n % apps
    ip = f"10.{128 + (n >> 16)}.{n >> 8 & 255}.{n & 255}"
    return POD.format(n=n, ns=app % NAMESPACES, app=app, version=version, node=n % NODES, sa=app % 20, ip=ip)


def service(n: int, port: int = 80) -> str:
    return SERVICE.format(n=n, ns=n % NAMESPACES, ip=f"10.96.{n >> 8 & 255}.{n & 255}", port=port)


def policy(n: int, sa: str = "web") -> str:
    return POLICY.format(n=n, ns=n % NAMESPACES, sa=sa)


def others(count: int, apps: int) -> Iterator[str]:
    for n in range(NAMESPACES):
        yield f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: ns{n}}}\n"
    for n in range(NODES):
        zone = f"topology.kubernetes.io/zone: west-{n % 3}"
        yield f"---\napiVersion: v1\nkind: Node\nmetadata: {{name: node-{n}, labels: {{{zone}}}}}\n"
    for n in range(max(0, count - NAMESPACES - NODES)):
        yield policy(n) if n < apps else policy(n % apps).replace(f"allow-{n % apps}", f"more-{n}")


class Plane:
    """What stands between manifests and streams."""

    def __init__(self, root: Path) -> None:
        state = StateDirectory(root / "state")
        self.manifests = root / "manifests"
        self.manifests.mkdir()
        self.publisher = Publisher()
        self.directory = ManifestDirectory(self.manifests, state)
        self.publication = Publication(
            MeshSettings(), RANGES, EnrolledPods(state), self.publisher, StatusBoard(state), state
        )

    def serve(self) -> None:
        made = self.publication.make(self.directory.reading)
        assert made is not None, "not all of it could be read"
        self.publication.take(made)

    def changed(self, name: str, text: str) -> tuple[float, int]:
        """CPU seconds until another text of a file is published, and how many addresses are others then."""
        path = self.manifests / name
        path.with_suffix(".draft").write_text(text)
        path.with_suffix(".draft").rename(path)
        before = self.publisher.current().snapshot
        began_s = time.process_time()
        self.directory.step(frozenset({name}))
        while self.directory.is_unfinished:
            self.directory.step(frozenset())
        self.serve()
        took_s = time.process_time() - began_s
        after = self.publisher.current().snapshot
        assert after is not before, f"{name}: nothing has changed"
        if after.addresses is before.addresses:
            return took_s, 0
        return took_s, len(after.touched) if after.base is before.addresses else len(after.addresses)


def fill(directory: Path, pods: int, services: int) -> int:
    """Write the manifests; how many objects there are. The first pod, Service and policy have files of their own."""
    (directory / "pod.yaml").write_text(pod(0, services))
    (directory / "service.yaml").write_text(service(0))
    (directory / "policy.yaml").write_text(policy(0))
    texts = [
        *(pod(n, services) for n in range(1, pods)),
        *(service(n) for n in range(1, services)),
        *(text for text in others((pods + services) // 8, services) if "allow-0," not in text),
    ]
    for at in range(0, len(texts), IN_FILE):
        (directory / f"part-{at}.yaml").write_text("".join(texts[at : at + IN_FILE]))
    return len(texts) + 3


def cpu_s(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def main(pods: int = PODS, services: int = SERVICES) -> None:
    with tempfile.TemporaryDirectory(prefix="ztun-translate-") as root:
        plane = Plane(Path(root))
        objects = fill(plane.manifests, pods, services)
        say(f"{objects} objects: {pods} pods, {services} Services; CPU time, load {os.getloadavg()[0]:.0f}")
        read_s = cpu_s(plane.directory.read)
        serve_s = cpu_s(plane.serve)
        snapshot = plane.publisher.current().snapshot
        count = f"{len(snapshot.addresses)} addresses, {len(snapshot.policies)} policies"
        say(f"read: {read_s:.2f} s; translated and published: {serve_s:.2f} s ({count})")
        turns: dict[str, Callable[[int], str]] = {
            "pod": lambda turn: pod(0, services, str(turn + 2)),
            "service": lambda turn: service(0, 81 + turn),
            "policy": lambda turn: policy(0, f"other{turn}"),
        }
        for kind, text in turns.items():
            told = [plane.changed(f"{kind}.yaml", text(turn)) for turn in range(ROUNDS)]
            took_ms = [took_s * 1e3 for took_s, _ in told]
            say(
                f"one {kind} changed: {statistics.median(took_ms):.1f} ms (most {max(took_ms):.1f}),"
                f" {told[-1][1]} addresses made anew"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
