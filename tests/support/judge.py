"""Manifests as they are enforced: read, translated, decoded and judged by the real parts of both ends, without IO."""

from __future__ import annotations

from collections.abc import Mapping

from agent.controlplane.read.admission import NOTHING, Standing, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.remarks import Remark, Weight
from agent.controlplane.translate.compose import translate
from agent.controlplane.translate.effects import remarks
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from agent.controlplane.translate.refusals import refusals
from agent.controlplane.translate.resources import Snapshot as Served
from agent.mesh_state import batch_of, decoding
from agent.model.address import SocketAddress, parse_ip
from agent.model.connection import Connection
from agent.model.identity import SCHEME, Identity
from agent.model.steps import to_the_end
from agent.model.workload import Workload
from agent.policy.evaluate import evaluate
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION

SOMEBODY = "cluster.local/ns/demo/sa/somebody"


class Judge:
    """The mesh that these files make at a first start, or after `before`; file names are the keywords, with `.yaml`."""

    def __init__(self, before: Standing | None = None, /, **texts: str) -> None:
        files = {f"{name}.yaml": parse(f"{name}.yaml", text) for name, text in texts.items()}
        self.standing = admit(before or NOTHING, files, is_first=before is None)
        everything = collect(self.standing.served())
        mesh = mesh_of(everything, MeshSettings())
        self.inventory = discovered(everything, mesh)
        self.said: list[Remark] = [
            *refusals(self.standing, mesh),
            *self.standing.remarks,
            *remarks(everything, mesh),
        ]
        self.served: Served = translate(everything, {}, MeshSettings())
        self._store = Store(Snapshot(node="node-a"))
        self._take(AUTHORIZATION, {name: p.resource.value for name, p in self.served.policies.items()})
        self._take(ADDRESS, {name: r.value for name, r in self.served.addresses.items()})

    def _take(self, type_url: str, raw: Mapping[str, bytes]) -> None:
        decoded, refused = to_the_end(decoding(type_url, raw))
        assert not refused, refused
        self._store.apply(batch_of(type_url, decoded, ()))

    @property
    def snapshot(self) -> Snapshot:
        return self._store.current

    def pod(self, name: str, namespace: str = "demo") -> Workload:
        [workload] = self.snapshot.workloads_named(namespace, name)
        return workload

    def admits(
        self,
        pod: str,
        port: int = 80,
        principal: str | None = SOMEBODY,
        source: str = "10.99.0.1",
        namespace: str = "demo",
    ) -> bool:
        """Whether a connection is let in; `principal` None: in plaintext."""
        workload = self.pod(pod, namespace)
        connection = Connection(
            SocketAddress(parse_ip(source), 40000),
            SocketAddress(workload.addresses[0], port),
            Identity.parse(SCHEME + principal) if principal else None,
        )
        return evaluate(connection, workload, self.snapshot).allowed

    def without_effect(self) -> list[str]:
        return [str(remark) for remark in self.said if remark.weight is Weight.INEFFECTIVE]

    def notes(self) -> list[str]:
        return [str(remark) for remark in self.said if remark.weight is Weight.NOTE]
