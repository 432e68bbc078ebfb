"""What is not in force for a pod, by why and since when."""

from __future__ import annotations

import pytest

from agent.model.policy import Match, RefusedPolicy, Scope
from agent.model.workload import Workload
from agent.state.gaps import Gap, GapLog, Kind, gaps
from agent.state.snapshot import Snapshot
from tests.support.mesh import allow, refusing, snapshot, workload

CONVERTED = "apps/converted_peer_authentication_p"
WHY = "rules[0]: wrong"


def found(snap: Snapshot, pod: Workload | None, refused: dict[str, str] | None = None) -> list[Gap]:
    return gaps(snap, [("apps", "web", pod)], refused or {})


def selecting(*names: str) -> Workload:
    return workload("web", "10.0.0.1", authorization_policies=names)


@pytest.mark.parametrize(
    ("policies", "refused", "listed", "expected"),
    [
        ([], {}, (), []),
        ([allow("a", scope=Scope.WORKLOAD_SELECTOR)], {}, ("apps/a",), []),
        ([], {}, ("apps/a",), [Gap("apps/web", "apps/a", Kind.AWAITED)]),
        ([], {}, (CONVERTED,), [Gap("apps/web", CONVERTED, Kind.AWAITED, "", True)]),
        ([], {"a": Scope.WORKLOAD_SELECTOR}, ("apps/a",), [Gap("apps/web", "apps/a", Kind.REFUSED, WHY)]),
        ([], {"a": Scope.WORKLOAD_SELECTOR}, (), []),
        ([], {"a": Scope.NAMESPACE}, (), [Gap("apps/web", "apps/a", Kind.REFUSED, WHY)]),
        ([allow("a", Match())], {"a": Scope.NAMESPACE}, (), [Gap("apps/web", "apps/a", Kind.UPDATE_REFUSED, WHY)]),
        (
            [allow("a", scope=Scope.WORKLOAD_SELECTOR)],
            {"a": Scope.WORKLOAD_SELECTOR},
            ("apps/a",),
            [Gap("apps/web", "apps/a", Kind.UPDATE_REFUSED, WHY)],
        ),
        ([allow("a", scope=Scope.WORKLOAD_SELECTOR)], {"a": Scope.WORKLOAD_SELECTOR}, (), []),
    ],
)  # fmt: skip
def test_gaps_of_policies(
    policies: list[object], refused: dict[str, Scope], listed: tuple[str, ...], expected: list[Gap]
) -> None:
    base = snapshot(*policies)  # type: ignore[arg-type]
    snap = refusing(base, **{name: RefusedPolicy(WHY, scope, "apps") for name, scope in refused.items()})
    assert found(snap, selecting(*listed)) == expected


def test_a_pod_whose_own_description_was_refused_is_named_known_or_not() -> None:
    refused = {"Kubernetes//Pod/apps/web": "addresses[0]: wrong", "Kubernetes//Pod/apps/web-2": "other"}
    expected = [Gap("apps/web", "Kubernetes//Pod/apps/web", Kind.WORKLOAD_REFUSED, "addresses[0]: wrong")]
    assert found(snapshot(), None, refused) == expected
    assert found(snapshot(), selecting(), refused) == expected


def test_another_pod_with_an_address_of_this_one_is_named_and_whom_the_address_means() -> None:
    web = workload("web", "10.0.0.1", "10.0.0.2")
    twin = workload("twin", "10.0.0.2", "10.0.0.1", namespace="other")
    entry = workload("vm", "10.0.0.1", uid="Kubernetes/networking.istio.io/WorkloadEntry/apps/vm")
    abroad = workload("abroad", "10.0.0.1", network="n2")
    node_agent = workload("agent", "10.0.0.1", host_network=True)
    for others, meant in (((twin, web), "apps/web"), ((web, twin), "other/twin")):
        snap = snapshot(*others, entry, abroad, node_agent)
        assert found(snap, web) == [
            Gap("apps/web", twin.uid, Kind.ADDRESS_SHARED, shared=f"10.0.0.1 means {meant} here")
        ]
    assert found(snapshot(web, entry, abroad, node_agent), web) == []


@pytest.mark.parametrize(
    ("gap", "text", "is_harmless"),
    [
        (
            Gap("apps/web", "apps/a", Kind.AWAITED),
            "policy apps/a is listed by the workload but not received yet: everything to the pod is denied",
            False,
        ),
        (
            Gap("apps/web", CONVERTED, Kind.AWAITED, "", True),
            f"policy {CONVERTED} is listed by the workload but not received yet: plaintext to the pod is denied",
            True,
        ),
        (
            Gap("apps/web", CONVERTED, Kind.REFUSED, WHY, True),
            f"policy {CONVERTED} was refused by this agent ({WHY}): plaintext to the pod is denied",
            False,
        ),
        (
            Gap("apps/web", "apps/a", Kind.UPDATE_REFUSED, WHY),
            f"policy apps/a was refused by this agent ({WHY}): the version before it stays in force",
            False,
        ),
        (
            Gap("apps/web", "u", Kind.WORKLOAD_REFUSED, WHY),
            f"its description was refused by this agent ({WHY}): of the pod is known what was said before, or nothing",
            False,
        ),
        (
            Gap("apps/web", "u", Kind.ADDRESS_SHARED, shared="10.0.0.1 means apps/twin here"),
            "the control plane lists u with an address of this pod too: 10.0.0.1 means apps/twin here",
            False,
        ),
    ],
)
def test_what_people_read(gap: Gap, text: str, is_harmless: bool) -> None:
    assert (gap.text, gap.is_harmless) == (text, is_harmless)


def test_a_gap_is_as_old_as_it_was_there_without_a_break() -> None:
    log = GapLog()
    one, two = Gap("apps/web", "apps/a", Kind.AWAITED), Gap("apps/web", "apps/b", Kind.AWAITED)
    assert log.update([one], 10.0) == {one: 10.0}
    assert log.update([one, two], 20.0) == {one: 10.0, two: 20.0}
    assert log.update([two], 30.0) == {two: 20.0}
    assert log.update([one, two], 40.0) == {one: 40.0, two: 20.0}
