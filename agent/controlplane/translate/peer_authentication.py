"""PeerAuthentication: which mode holds for a workload and its ports, and the policies that enforce STRICT. Pure.

Levels (docs/WIRE.md#translation): workload (selector, in its own namespace), namespace, mesh (root namespace); one of a
level counts, the oldest, and UNSET asks the next. STRICT makes a workload list a DENY of everyone without an identity;
modes of single ports are converted into a policy of their own, in istiod's form but without its two holes: what is
listed is always sent, and a mode of a level below STRICT always counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from agent.controlplane.read.objects import EVERYWHERE, PeerAuthentication
from agent.controlplane.translate.selection import by_namespace, selects
from agent.pb import authorization_pb2 as authz

STATIC_STRICT = "istio_converted_static_strict"
CONVERTED = "converted_peer_authentication_"
OPEN = ("PERMISSIVE", "DISABLE")


def precedence(authentication: PeerAuthentication) -> tuple[bool, str, str, str]:
    """The first of a level counts: the oldest, as in istiod; those without an age after them, by file and name."""
    meta = authentication.meta
    return not meta.created, meta.created or meta.place.file, meta.namespace, meta.name


class PeerAuthentications:
    """All of a mesh, by level."""

    def __init__(self, authentications: Iterable[PeerAuthentication], root_namespace: str) -> None:
        self._root = root_namespace
        self._stand_ins: list[PeerAuthentication] = []
        self._whole: defaultdict[str, list[PeerAuthentication]] = defaultdict(list)
        self._selecting: list[PeerAuthentication] = []
        for each in sorted(authentications, key=precedence):
            if each.is_stand_in:
                self._stand_ins.append(each)
            elif each.selector:
                self._selecting.append(each)
            else:
                self._whole[each.meta.namespace].append(each)
        self._selection = by_namespace(self._selecting, lambda p: p.meta.namespace, lambda p: p.selector)

    def of_level(self, namespace: str) -> list[PeerAuthentication]:
        """Those for a whole namespace, in their order; of the root namespace: for the mesh."""
        return self._whole.get(namespace, [])

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> list[PeerAuthentication]:
        """Those whose selector finds a workload, in their order."""
        selection = self._selection.get(namespace)
        return selection.finds(labels) if selection else []

    def inherited(self, namespace: str) -> str:
        """The mode of a namespace, for workloads that say nothing themselves."""
        for level in (self.of_level(namespace), self.of_level(self._root)):
            if level and level[0].mode != "UNSET":
                return level[0].mode
        return "PERMISSIVE"

    def policy_of(self, namespace: str, labels: Mapping[str, str]) -> str | None:
        """The name of the policy that a workload lists for its mode; None if it takes plaintext everywhere."""
        static = f"{self._root}/{STATIC_STRICT}"
        if any(self._is_closed_by(each, namespace, labels) for each in self._stand_ins):
            return static
        inherited = self.inherited(namespace)
        own = next(iter(self.selecting(namespace, labels)), None)
        if own is None:
            return static if inherited == "STRICT" else None
        if _converts(own, inherited):
            return f"{namespace}/{CONVERTED}{own.meta.name}"
        return static if _base(own, inherited) == "STRICT" else None

    def policies(self) -> Iterator[authz.Authorization]:
        """What may be listed: the static one whenever there is any PeerAuthentication, and the converted ones."""
        if self._stand_ins or self._whole or self._selecting:
            yield _policy(self._root, STATIC_STRICT, [authz.Rule(clauses=[_clause(_nobody())])])
        for each in self._selecting:
            rules = list(_rules(each, self.inherited(each.meta.namespace)))
            if rules:
                yield _policy(each.meta.namespace, CONVERTED + each.meta.name, rules)

    def disabled_in_vain(self, authentication: PeerAuthentication) -> list[int]:
        """Ports whose DISABLE does not count, as in istiod: under an inherited STRICT only PERMISSIVE opens."""
        inherited = self.inherited(authentication.meta.namespace)
        if authentication.mode != "UNSET" or inherited != "STRICT" or _converts(authentication, inherited):
            return []
        return _ports(authentication, "DISABLE")

    def _is_closed_by(self, stand_in: PeerAuthentication, namespace: str, labels: Mapping[str, str]) -> bool:
        where = stand_in.meta.namespace
        if stand_in.selector:
            return where == namespace and selects(stand_in.selector, labels)
        return where in (namespace, self._root, EVERYWHERE)


def _base(own: PeerAuthentication, inherited: str) -> str:
    return inherited if own.mode == "UNSET" else own.mode


def _converts(own: PeerAuthentication, inherited: str) -> bool:
    """Whether a workload lists the converted policy in place of the static one, or of none."""
    if _base(own, inherited) != "STRICT":
        return bool(_ports(own, "STRICT"))
    return bool(_ports(own, "PERMISSIVE") if own.mode == "UNSET" else _ports(own, *OPEN))


def _ports(own: PeerAuthentication, *modes: str) -> list[int]:
    return sorted(port for port, mode in own.ports.items() if mode in modes)


def _rules(own: PeerAuthentication, inherited: str) -> Iterator[authz.Rule]:
    """Under STRICT one rule: no identity, and none of the open ports. Else one for each strict port."""
    if _base(own, inherited) != "STRICT":
        for port in _ports(own, "STRICT"):
            strict = _nobody()
            strict.destination_ports.append(port)
            yield authz.Rule(clauses=[_clause(strict)])
    elif ports := _ports(own, *OPEN):
        clauses = [_clause(authz.Match(not_destination_ports=[port])) for port in ports]
        # Where istiod says it, and as often.
        before = [_clause(_nobody())] if own.mode == "STRICT" else []
        after = [_clause(_nobody())] if inherited == "STRICT" else []
        yield authz.Rule(clauses=[*before, *clauses, *after])


def _nobody() -> authz.Match:
    """Who has no identity."""
    anyone = authz.StringMatch()
    anyone.presence.SetInParent()
    return authz.Match(not_principals=[anyone])


def _clause(match: authz.Match) -> authz.Clause:
    return authz.Clause(matches=[match])


def _policy(namespace: str, name: str, rules: list[authz.Rule]) -> authz.Authorization:
    return authz.Authorization(
        name=name, namespace=namespace, scope=authz.WORKLOAD_SELECTOR, action=authz.DENY, rules=rules
    )
