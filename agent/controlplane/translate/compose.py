"""The whole mesh: an Inventory and the set of captured pods, to the Snapshot that is served. Pure.

A change is composed by itself: made anew are the objects that changed and those that they are about (`reach`), so that
one policy costs the same in a mesh of any size. `changed` and `with_enrolled` answer another value; what both have
alike they share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain

from agent.controlplane.read.changes import Changes
from agent.controlplane.read.inventory import Inventory
from agent.controlplane.read.objects import AuthorizationPolicy, MeshConfig, Namespace, Pod, Service
from agent.controlplane.translate.authorization_policy import policy_name, translate_policy
from agent.controlplane.translate.making import Making, PodKey
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from agent.controlplane.translate.mesh_index import MeshIndex
from agent.controlplane.translate.reach import Owner, concerned
from agent.controlplane.translate.resources import Policy, Resource, Snapshot, make_resource
from agent.controlplane.translate.service import service_name
from agent.pb import authorization_pb2 as authz

Enrolled = Mapping[str, Collection[PodKey]]
"""Node -> the pods its agent says it captures."""
FEW = 1000
"""More changed objects than this, and than a quarter of the pods, are composed with everything else."""


def translate(inventory: Inventory, enrolled: Enrolled, settings: MeshSettings) -> Snapshot:
    """Everything served."""
    return Composed(inventory, enrolled, settings).snapshot


class Composed:
    """A mesh, and what is served of it. `pulse` is called between resources; it may raise, to break off."""

    def __init__(
        self,
        inventory: Inventory,
        enrolled: Enrolled,
        settings: MeshSettings,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        mesh = self.mesh = mesh_of(inventory, settings)
        self._index = MeshIndex(discovered(inventory, mesh), mesh)
        self.enrolled = enrolled
        self._captured = {node: frozenset(pods) for node, pods in enrolled.items()}
        # Made once: every workload of a Service holds its name.
        self._names = {key: service_name(s, mesh.domain) for key, s in self._index.services.items()}
        self._authorizations = self._authorized(self._index.policies.values())
        making = self._making()
        addresses: dict[str, Resource] = {}
        for owner in self._index.owners():
            pulse()
            addresses.update((r.name, r) for r in making.resources(owner))
        self.snapshot = Snapshot(dict(sorted(addresses.items())), self._policies())

    @property
    def pods(self) -> Collection[Pod]:
        return self._index.pods.values()

    @property
    def inventory(self) -> Inventory:
        """Of the objects, the pods."""
        return Inventory(pods=self._index.pods.values())

    def counting(self, changes: Changes) -> Changes:
        """Those of the changes that count in this mesh."""
        return self._index.counting(changes)

    def is_whole_affair(self, changes: Changes) -> bool:
        """Whether they have to be composed with everything else: all depends on one of them, or they are many."""
        if len(changes) > max(FEW, len(self._index.pods) // 4):
            return True
        return any(
            isinstance(o, MeshConfig) or (isinstance(o, Namespace) and self._depend_on(o)) for o in changes
        )

    def _depend_on(self, namespace: Namespace) -> bool:
        """Whether it says which network this is, or its labels whether it counts."""
        return bool(self.mesh.discovery) or namespace.meta.name == self.mesh.system_namespace

    def changed(self, changes: Changes) -> Composed:
        """The mesh after the changes, which are no whole affair."""
        after = copy.copy(self)
        changes = self._index.counting(changes)
        index = after._index = self._index.changed(changes)
        if any(isinstance(o, Service) for o in changes):
            after._names = {key: service_name(s, self.mesh.domain) for key, s in index.services.items()}
        policies = [o for o in changes.come.values() if isinstance(o, AuthorizationPolicy)]
        gone = self._gone(changes)
        after._authorizations = {n: p for n, p in self._authorizations.items() if n not in gone}
        after._authorizations |= self._authorized(p for p in policies if p.meta.key in index.policies)
        owners = {o.meta.key: o for o in chain.from_iterable(concerned(index, o) for o in changes)}
        before = self._making()
        had = {n for o in chain(changes.gone.values(), owners.values()) for n in before.names(o)}
        after._remake(self.snapshot, owners.values(), had)
        return after

    def with_enrolled(self, enrolled: Enrolled) -> Composed:
        """The mesh after other reports of agents."""
        after = copy.copy(self)
        after.enrolled = enrolled
        after._captured = {node: frozenset(pods) for node, pods in enrolled.items()}
        turned: set[PodKey] = set()
        for node in self._captured.keys() | after._captured.keys():
            turned |= self._captured.get(node, frozenset()) ^ after._captured.get(node, frozenset())
        known = (self._index.pods.get(("Pod", *pod)) for pod in turned)
        after._remake(self.snapshot, [pod for pod in known if pod is not None], ())
        return after

    def _gone(self, changes: Changes) -> set[str]:
        return {
            policy_name(o, self.mesh) for o in changes.gone.values() if isinstance(o, AuthorizationPolicy)
        }

    def _making(self) -> Making:
        return Making(self._index, self._names, self._captured)

    def _remake(self, before: Snapshot, owners: Iterable[Owner], had: Collection[str]) -> None:
        """The snapshot, with these made anew; `had`: names of before, of which those are gone that are not made."""
        making = self._making()
        made = {r.name: r for owner in owners for r in making.resources(owner)}
        gone = [name for name in had if name not in made]
        self.snapshot = before.with_changes(made, gone, self._policies())

    # -- policies

    def _authorized(self, policies: Iterable[AuthorizationPolicy]) -> dict[str, Policy]:
        messages = (translate_policy(p, self.mesh) for p in policies)
        return {p.resource.name: p for p in map(_policy, messages)}

    def _policies(self) -> dict[str, Policy]:
        modes = map(_policy, self._index.modes.policies())
        return {p.resource.name: p for p in sorted((*self._authorizations.values(), *modes), key=_order)}


def _policy(message: authz.Authorization) -> Policy:
    return Policy(make_resource(f"{message.namespace}/{message.name}", message), message)


def _order(policy: Policy) -> tuple[str, str]:
    return policy.message.namespace, policy.message.name
