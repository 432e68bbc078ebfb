"""The stream's state machine: order of pushes against a client that acks late, and the rules of the protocol."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.controlplane.serve.push_order import only_opens
from agent.controlplane.serve.xds_session import Session
from agent.controlplane.translate.resources import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Policy,
    Snapshot,
    make_resource,
)
from agent.pb import authorization_pb2 as authz
from agent.pb import workload_pb2, xds_pb2

Rules = tuple[str, ...]
Shape = tuple[str, bool, Rules]
"""Action, whether it has a selector, and rules: `*` matches everybody, anything else somebody else."""


def message(name: str, action: str, selects: bool, rules: Rules) -> authz.Authorization:
    made = authz.Authorization(
        name=name,
        namespace="demo",
        action=authz.Action.Value(action),
        scope=authz.WORKLOAD_SELECTOR if selects else authz.NAMESPACE,
    )
    for rule in rules:
        entry = made.rules.add()
        if rule != "*":
            entry.clauses.add().matches.add().principals.add(exact=rule)
    return made


def snapshot(policies: Mapping[str, Shape], pods: tuple[str, ...] = ("web",)) -> Snapshot:
    made = {f"demo/{name}": message(name, *shape) for name, shape in policies.items()}
    listed = [name for name, m in made.items() if m.scope == authz.WORKLOAD_SELECTOR]
    addresses = {}
    for pod in pods:
        workload = workload_pb2.Workload(uid=pod, authorization_policies=listed)
        addresses[pod] = make_resource(
            pod, workload_pb2.Address(workload=workload), (f"/{pod}",), frozenset(listed)
        )
    return Snapshot(addresses, {n: Policy(make_resource(n, m), m) for n, m in made.items()})


class FakeClient:
    """Applies what it is sent, as a proxy does, and judges one connection to pod `web` at every moment."""

    def __init__(self) -> None:
        self.session = Session()
        self.archive: dict[str, authz.Authorization] = {}
        self.policies: dict[str, authz.Authorization] = {}
        self.addresses: dict[str, workload_pb2.Workload] = {}
        self.waiting: list[xds_pb2.DeltaDiscoveryResponse] = []

    def subscribe(self) -> None:
        for type_url in (AUTHORIZATION_TYPE, ADDRESS_TYPE):
            self.session.receive(xds_pb2.DeltaDiscoveryRequest(type_url=type_url))

    def step(self, target: Snapshot) -> list[xds_pb2.DeltaDiscoveryResponse]:
        self.archive.update({p.resource.version: p.message for p in target.policies.values()})
        responses = self.session.step(target, self.archive)
        for response in responses:
            self.apply(response)
            self.waiting.append(response)
        return responses

    def apply(self, response: xds_pb2.DeltaDiscoveryResponse) -> None:
        for entry in response.resources:
            if response.type_url == ADDRESS_TYPE:
                self.addresses[entry.name] = workload_pb2.Address.FromString(entry.resource.value).workload
            else:
                self.policies[entry.name] = authz.Authorization.FromString(entry.resource.value)
        for name in response.removed_resources:
            (self.addresses if response.type_url == ADDRESS_TYPE else self.policies).pop(name, None)

    def ack(self) -> None:
        response = self.waiting.pop(0)
        self.session.receive(
            xds_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        )

    def settle(self, target: Snapshot) -> None:
        self.step(target)
        while self.waiting:
            self.ack()
            self.step(target)

    @property
    def admits(self) -> bool:
        """Somebody without any named principal against the policies held now (docs/WIRE.md#policies)."""
        listed = self.addresses["web"].authorization_policies if "web" in self.addresses else ()
        held = [p for n, p in self.policies.items() if p.scope != authz.WORKLOAD_SELECTOR or n in listed]
        matched = {p.action for p in held if any(not rule.clauses for rule in p.rules)}
        if authz.DENY in matched:
            return False
        return authz.ALLOW in matched or all(p.action != authz.ALLOW for p in held)


SHAPES = st.tuples(
    st.sampled_from(["ALLOW", "DENY"]),
    st.booleans(),
    st.lists(st.sampled_from(["*", "x", "y"]), unique=True, max_size=2).map(tuple),
)
POLICIES = st.dictionaries(st.sampled_from("abc"), SHAPES, max_size=3)


def test_every_change_of_one_policy_is_closed_in_between() -> None:
    """All changes of one policy beside another that stays: what both ends refuse is refused at every step."""
    rules: list[Rules] = [(), ("*",), ("x",), ("x", "*")]
    shapes: list[Shape | None] = [(a, s, r) for a in ("ALLOW", "DENY") for s in (True, False) for r in rules]
    for stays in [None, ("ALLOW", False, ("*",)), ("ALLOW", True, ("x",)), ("DENY", True, ("x",))]:
        other = {"stays": stays} if stays else {}
        for old in [None, *shapes]:
            for new in [None, *shapes]:
                check_transition(other | ({"p": old} if old else {}), other | ({"p": new} if new else {}))


def check_transition(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> None:
    client = FakeClient()
    client.subscribe()
    client.settle(snapshot(before))
    first = client.admits
    judged = []
    target = snapshot(after)
    client.step(target)
    judged.append(client.admits)
    while client.waiting:
        client.ack()
        client.step(target)
        judged.append(client.admits)
    if not first and not judged[-1]:
        assert not any(judged), (before, after)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(POLICIES, st.booleans()), min_size=1, max_size=6), st.randoms(use_true_random=False)
)
def test_no_address_lists_a_policy_that_its_client_does_not_hold(
    states: list[tuple[dict[str, Shape], bool]], random: object
) -> None:
    client = FakeClient()
    client.subscribe()
    for policies, two in states:
        target = snapshot(policies, ("web", "db") if two else ("web",))
        client.step(target)
        while client.waiting and random.random() < 0.6:  # type: ignore[attr-defined]
            client.ack()
            client.step(target)
        for workload in client.addresses.values():
            assert set(workload.authorization_policies) <= client.policies.keys()
    client.settle(target)
    assert client.addresses.keys() == target.addresses.keys()
    assert client.policies == {name: p.message for name, p in target.policies.items()}
    assert client.step(target) == []


def test_changes_meanwhile_melt_into_one_push() -> None:
    client = FakeClient()
    client.subscribe()
    client.settle(snapshot({}))
    client.step(snapshot({}, ("web", "db")))
    assert client.step(snapshot({}, ("web", "db", "c"))) == []
    client.ack()
    [response] = client.step(snapshot({}, ("web", "c", "d")))
    assert sorted(entry.name for entry in response.resources) == ["c", "d"]
    assert list(response.removed_resources) == ["db"]


def test_stale_nonces_are_ignored_with_what_they_ask() -> None:
    client = FakeClient()
    client.subscribe()
    client.settle(snapshot({}))
    [response] = client.step(snapshot({}, ("web", "db")))
    stale = xds_pb2.DeltaDiscoveryRequest(
        type_url=ADDRESS_TYPE, response_nonce="old", resource_names_subscribe=["/web"]
    )
    assert client.session.receive(stale) is None
    assert client.step(snapshot({}, ("web",))) == [], "the response under way is still unanswered"
    client.ack()
    [response] = client.step(snapshot({}, ("web",)))
    assert (list(response.resources), list(response.removed_resources)) == ([], ["db"])


def test_asking_for_a_name_or_an_address_is_answered_though_nothing_changed() -> None:
    client = FakeClient()
    client.subscribe()
    client.settle(snapshot({}))
    names = ["/web", "/nobody"]
    client.session.receive(
        xds_pb2.DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, resource_names_subscribe=names)
    )
    [response] = client.step(snapshot({}))
    assert [entry.name for entry in response.resources] == ["web"]
    assert list(response.removed_resources) == ["/nobody"]


def test_a_nack_that_names_nothing_puts_all_of_it_in_doubt() -> None:
    client = FakeClient()
    client.subscribe()
    client.settle(snapshot({}))
    target = snapshot({"a": ("DENY", True, ("*",)), "b": ("DENY", False, ("*",))})
    [response] = client.step(target)
    refusal = xds_pb2.DeltaDiscoveryRequest(type_url=AUTHORIZATION_TYPE, response_nonce=response.nonce)
    refusal.error_detail.message = "no"
    nack = client.session.receive(refusal)
    assert nack and nack.names == ("demo/a", "demo/b")
    assert client.session.step(target, client.archive) == [], "web would list demo/a"


def test_an_old_policy_stays_while_its_successor_is_refused() -> None:
    client = FakeClient()
    client.subscribe()
    client.settle(snapshot({"old": ("DENY", True, ("*",))}))
    target = snapshot({"new": ("DENY", True, ("*",))})
    [response] = client.step(target)
    refusal = xds_pb2.DeltaDiscoveryRequest(type_url=AUTHORIZATION_TYPE, response_nonce=response.nonce)
    refusal.error_detail.message = "demo/new: cannot"
    client.session.receive(refusal)
    del client.policies["demo/new"], client.waiting[:]
    assert client.step(target) == []
    assert list(client.addresses["web"].authorization_policies) == ["demo/old"]
    assert not client.admits
    client.settle(snapshot({"new": ("DENY", True, ("*", "x"))}))
    assert client.policies.keys() == {"demo/new"} and not client.admits


@pytest.mark.parametrize(
    ("old", "new", "opens"),
    [
        (("DENY", False, ("*", "x")), ("DENY", False, ("x",)), True),
        (("DENY", False, ("x",)), ("DENY", False, ("x", "y")), False),
        (("DENY", False, ("x",)), ("DENY", False, ("y",)), False),
        (("ALLOW", False, ("x",)), ("ALLOW", False, ("x", "y")), True),
        (("ALLOW", False, ("x", "y")), ("ALLOW", False, ("x",)), False),
        (("ALLOW", False, ()), ("ALLOW", False, ("x",)), True),
        (("DENY", False, ("*",)), ("DENY", True, ("*",)), True),
        (("DENY", True, ("*",)), ("DENY", False, ("*",)), False),
        (("DENY", False, ("x",)), ("ALLOW", False, ("x",)), False),
    ],
)
def test_what_only_opens(old: Shape, new: Shape, opens: bool) -> None:
    assert only_opens(message("p", *old), message("p", *new)) is opens
