"""Batches: no-ops, what changed, removal names, and that history leaves nothing behind."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.policy import Scope
from agent.model.service import HealthPolicy, LoadBalancing
from agent.model.steps import to_the_end
from agent.model.workload import Health, TunnelProtocol
from agent.state.apply import (
    NO_CHANGES,
    Batch,
    Changes,
    address_name,
    apply,
    full_addresses,
    full_authorizations,
)
from agent.state.snapshot import Snapshot
from tests.support.mesh import allow, batch, deny, key, pods, policy, service, snapshot, workload

EMPTY = Snapshot(node="n1")
W = workload("w", "10.0.0.1", services={"web": {80: 8080}})
WEB = service("web", "10.9.0.1")


def again(resource):
    """An equal value that is another object."""
    return dataclasses.replace(resource)


@pytest.mark.parametrize(
    "same",
    [
        batch(),
        batch(again(W)),
        batch(again(WEB), again(W)),
        batch(allow("a")),
        batch(removed=("nobody", "apps/nobody", "a/b/c", "")),
        Batch(removed_authorizations=("apps/nobody",)),
        batch(workload("w", "10.9.9.9"), again(W)),  # the last one of a name counts
    ],
)
def test_batch_that_says_nothing_new_touches_nothing(same: Batch) -> None:
    before = snapshot(W, WEB, allow("a"))
    after, changes = apply(before, same)
    assert after is before
    assert changes is NO_CHANGES
    assert not changes


def test_changes_name_what_is_new_different_and_gone() -> None:
    gone, kept = workload("gone", "10.0.0.2"), workload("kept", "10.0.0.3")
    before = snapshot(W, gone, kept, WEB, service("old"), allow("a"), allow("b"), allow("c"))
    update = Batch(
        addresses=(dataclasses.replace(W, node="n2"), again(kept), workload("new"), service("more")),
        removed_addresses=(gone.uid, "apps/old.apps.svc.cluster.local"),
        authorizations=(("apps/a", deny("a")), ("apps/b", allow("b")), ("apps/n", allow("n"))),
        removed_authorizations=("apps/c",),
    )
    after, changes = apply(before, update)
    assert changes == Changes(
        workloads=frozenset({W.uid, gone.uid, "Kubernetes//Pod/apps/new"}),
        services=frozenset({key("old"), key("more")}),
        policies=frozenset({"apps/a", "apps/n", "apps/c"}),
    )
    assert after.revision == before.revision + 1
    assert before.workloads[gone.uid] == gone


def test_name_that_is_updated_and_removed_in_one_batch_is_gone() -> None:
    after, _ = apply(EMPTY, batch(W, WEB, removed=(W.uid, str(WEB.key))))
    assert after == EMPTY
    both = Batch(authorizations=(("apps/a", allow("a")),), removed_authorizations=("apps/a",))
    assert apply(snapshot(allow("a")), both)[0] == EMPTY


def test_removal_name_is_a_uid_before_it_is_a_service() -> None:
    twin = workload("twin", uid=str(WEB.key))
    before = snapshot(twin, WEB)
    after, changes = apply(before, batch(removed=(str(WEB.key),)))
    assert changes == Changes(workloads=frozenset({twin.uid}))
    assert WEB.key in after.services


def test_policy_that_changes_scope_is_indexed_again() -> None:
    target = workload("t", "10.0.0.1")
    for scope, applies in ((Scope.NAMESPACE, True), (Scope.WORKLOAD_SELECTOR, False), (Scope.GLOBAL, True)):
        snap = snapshot(policy("p", scope=Scope.GLOBAL))
        snap, _ = apply(snap, batch(policy("p", scope=scope)))
        assert bool(snap.policies_for(target).allow) is applies


def test_policies_are_keyed_by_their_xds_name() -> None:
    snap, _ = apply(EMPTY, Batch(authorizations=(("converted/x", deny("other")),)))
    assert set(snap.policies) == {"converted/x"}
    snap, changes = apply(snap, Batch(removed_authorizations=("apps/other",)))
    assert not changes


def test_full_state_removes_what_it_does_not_name() -> None:
    before = snapshot(W, WEB, workload("x"), service("y"), allow("a"), allow("b"))
    after, changes = apply(
        before, to_the_end(full_addresses(before, [again(W), service("z")], [W.uid, str(key("z"))]))
    )
    assert set(after.workloads) == {W.uid}
    assert set(after.services) == {key("z")}
    assert W.uid not in changes.workloads
    assert set(after.policies) == {"apps/a", "apps/b"}
    after, changes = apply(after, full_authorizations(after, [("apps/b", allow("b"))]))
    assert (set(after.policies), changes.policies) == ({"apps/b"}, {"apps/a"})
    assert apply(after, full_authorizations(after, [("apps/b", allow("b"))]))[0] is after


def test_memos_of_untouched_services_survive_a_batch() -> None:
    before = snapshot(W, WEB, *pods(3, services={"other": {80: 80}}), service("other"))
    web, other = before.endpoints(WEB.key), before.endpoints(key("other"))
    after, _ = apply(before, batch(dataclasses.replace(W, capacity=7)))
    assert after.endpoints(key("other")) is other
    assert after.endpoints(WEB.key) is not web


# --- any history

WORKLOADS = st.builds(
    lambda n, fields: workload(f"w{n}", **fields),
    st.integers(0, 3),
    st.fixed_dictionaries(
        {
            "protocol": st.sampled_from(TunnelProtocol),
            "status": st.sampled_from(Health),
            "services": st.sampled_from([{}, {"s0": {80: 1}}, {"s1": {80: 2}}, {"s0": {}, "s1": {81: 3}}]),
            "hostname": st.sampled_from(["", "h1", "h2"]),
            "host_network": st.booleans(),
            "node": st.sampled_from(["n1", "n2"]),
        }
    ),
).flatmap(
    lambda w: st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), max_size=3).map(
        lambda ips: dataclasses.replace(w, addresses=workload("x", *ips).addresses)
    )
)
SERVICES = st.builds(
    lambda n, vips, canonical, health: service(
        f"s{n}", *vips, canonical=canonical, load_balancing=LoadBalancing(health_policy=health)
    ),
    st.integers(0, 1),
    st.lists(st.sampled_from(["10.9.0.1", "n2/10.9.0.1", "fd09::1"]), max_size=2),
    st.booleans(),
    st.sampled_from(HealthPolicy),
)
POLICIES = st.builds(
    lambda n, scope, dry: policy(f"p{n}", scope=scope, dry_run=dry),
    st.integers(0, 2),
    st.sampled_from(Scope),
    st.booleans(),
)
OPERATIONS = st.lists(
    st.one_of(
        WORKLOADS, SERVICES, POLICIES, st.sampled_from(["w0", "w1", "w2", "w3", "s0", "s1", "p0", "p1", "p2"])
    ),
    max_size=25,
)


def removal(name: str) -> Batch:
    if name.startswith("p"):
        return Batch(removed_authorizations=(f"apps/{name}",))
    return batch(removed=(workload(name).uid if name.startswith("w") else str(key(name)),))


def replay(operations) -> Snapshot:
    snap = EMPTY
    for operation in operations:
        step = removal(operation) if isinstance(operation, str) else batch(operation)
        snap, _ = apply(snap, step)
        for service_key in snap.services:
            snap.endpoints(service_key)
        for each in snap.workloads.values():
            snap.policies_for(each)
    return snap


def survivors(operations) -> list:
    """What is left at the end, in the order of each one's last change."""
    left: dict[str, object] = {}
    for operation in operations:
        name = operation if isinstance(operation, str) else operation.name
        if left.get(name) != operation:
            left.pop(name, None)
            if not isinstance(operation, str):
                left[name] = operation
    return list(left.values())


def endpoints_of(snap: Snapshot) -> dict:
    return {k: {e.workload.uid: e for e in snap.endpoints(k).all} for k in snap.services}


@settings(max_examples=150)
@given(OPERATIONS)
def test_any_history_equals_a_snapshot_built_from_scratch(operations) -> None:
    lived, fresh = replay(operations), snapshot(*survivors(operations))
    assert lived == fresh
    assert endpoints_of(lived) == endpoints_of(fresh)
    for each in lived.workloads.values():
        assert lived.policies_for(each) == fresh.policies_for(each)


@settings(max_examples=100)
@given(OPERATIONS, st.lists(st.one_of(WORKLOADS, SERVICES), unique_by=address_name), st.data())
def test_batch_in_two_halves_equals_the_whole(history, addresses, data) -> None:
    base = replay(history)
    cut = data.draw(st.integers(0, len(addresses)))
    # Workloads and services are indexed apart, so only the order within each kind can matter.
    whole, changes = apply(base, Batch(addresses=tuple(addresses)))
    first, one = apply(base, Batch(addresses=tuple(addresses[:cut])))
    second, two = apply(first, Batch(addresses=tuple(addresses[cut:])))
    assert second == whole
    assert changes == Changes(one.workloads | two.workloads, one.services | two.services)
    assert endpoints_of(second) == endpoints_of(whole)
    assert apply(whole, Batch(addresses=tuple(addresses)))[0] is whole
