"""From what the API tells to what is to be of each pod: a row for each state, and orders that news may come in."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from agent.enroll.source import Forget, LetGo, Stance, Take, follow
from agent.enroll.treatment import Asked
from agent.enroll.wish import PodInstance, PodKey, WantedBy, Where, Wish
from agent.kubernetes import pod_table
from agent.kubernetes.decision import Decision, Rules, decide
from agent.kubernetes.objects import Namespace, Pod, namespace_of, pod_of
from agent.kubernetes.pod_table import NO, YES, PodTable
from agent.kubernetes.reflector import Gone, Listed, Put
from agent.model.address import parse_ip
from tests.support import kube

AMBIENT = {"istio.io/dataplane-mode": "ambient"}
KEY = PodKey("demo", "web")
FIRST, SECOND = "11111111-0000-0000-0000-000000000001", "22222222-0000-0000-0000-000000000002"


def put(address: str = "10.0.0.1", uid: str = FIRST, **more: Any) -> Put[Any]:
    return Put(pod_of(kube.pod("web", address=address, uid=uid, **more)))


def gone(uid: str = FIRST) -> Gone:
    return Gone("demo", "web", uid)


def space(labels: dict[str, str] | None = None) -> Put[Any]:
    return Put(
        namespace_of(kube.namespace("demo", AMBIENT if labels is None else labels) | {"x": 1} | _meta(labels))
    )


def _meta(labels: dict[str, str] | None) -> kube.Raw:
    return {"metadata": {"name": "demo", "uid": "ns", "labels": AMBIENT if labels is None else labels}}


def table(*pods: Any, spaces: tuple[Any, ...] = (space(),)) -> PodTable:
    made = PodTable(Rules())
    made.hear_namespaces([*spaces, Listed()])
    made.hear_pods([*pods, Listed()])
    return made


def found(address: str = "10.0.0.1", uid: str = FIRST) -> Where:
    return Where(pod=PodInstance(uid, (parse_ip(address),)))


@pytest.mark.parametrize(
    ("pod", "stance"),
    [
        (put(), Stance.WANTED),
        (put(phase="Pending"), Stance.WANTED),
        (put(address=""), Stance.UNDECIDED),
        (put(labels={"istio.io/dataplane-mode": "none"}), Stance.UNWANTED),
        (put(address="", labels={"istio.io/dataplane-mode": "none"}), Stance.UNWANTED),
        (put(hostNetwork=True), Stance.UNWANTED),
        (put(phase="Succeeded"), None),
        (put(phase="Failed", address=""), None),
    ],
    ids=[
        "running",
        "pending",
        "no-address",
        "opted-out",
        "opted-out-no-address",
        "host",
        "succeeded",
        "failed",
    ],
)
def test_claim_of_each_state(pod: Put[Any], stance: Stance | None) -> None:
    claim = (table(pod).claims() or {}).get(KEY)
    assert (claim.stance if claim else None) is stance


def test_nothing_is_said_before_everything_was_heard() -> None:
    made = PodTable(Rules())
    made.hear_pods([put(), Listed()])
    assert made.claims() is None
    made.hear_namespaces([space(), Listed()])
    assert made.claims()


def test_a_namespace_that_is_not_known_decides_nothing() -> None:
    (claim,) = (table(put(), spaces=()).claims() or {}).values()
    assert claim.stance is Stance.UNDECIDED and "namespace demo is not known" in claim.reason


def test_a_namespace_that_goes_before_its_pods_leaves_them_as_they_are_and_is_forgotten_with_them() -> None:
    made = table(put())
    made.hear_namespaces([Gone("", "demo", "ns")])
    (claim,) = (made.claims() or {}).values()
    assert claim.stance is Stance.WANTED
    made.hear_pods([gone()])
    made.hear_pods([put(uid=SECOND)])
    (claim,) = (made.claims() or {}).values()
    assert claim.stance is Stance.UNDECIDED


def test_the_place_that_the_cni_plugin_told_is_used_for_that_pod_alone() -> None:
    made = table(put(address=""))
    made.put_place(FIRST, "container", "/run/netns/cni-1")
    (claim,) = (made.claims() or {}).values()
    assert (claim.stance, claim.where) == (Stance.WANTED, Where(netns="/run/netns/cni-1"))
    made.hear_pods([put(uid=SECOND, address="10.0.0.1")])
    (claim,) = (made.claims() or {}).values()
    assert claim.where == found(uid=SECOND)


# -- from claims to what is done


def wish(
    uid: str = FIRST, where: Where | None = None, by: WantedBy = WantedBy.KUBERNETES
) -> dict[PodKey, Wish]:
    return {KEY: Wish(KEY, where or found(uid=uid), by, 1.0, uid=uid)}


def steps(made: PodTable, wishes: dict[PodKey, Wish], left: dict[PodKey, str] | None = None) -> list[Any]:
    return list(follow(WantedBy.KUBERNETES, made.claims() or {}, wishes, left or {}, 5.0))


def test_labelled_is_taken_and_unlabelled_is_let_go() -> None:
    (taken,) = steps(table(put()), {})
    assert isinstance(taken, Take) and taken.wish == Wish(KEY, found(), WantedBy.KUBERNETES, 5.0, uid=FIRST)
    assert steps(table(put()), wish()) == []
    unlabelled = table(put(), spaces=(space({}),))
    (let_go,) = steps(unlabelled, wish())
    assert isinstance(let_go, LetGo) and "has the label" in let_go.reason
    assert steps(unlabelled, {}) == []


@pytest.mark.parametrize("text, asked", [("true", True), ("false", False), (None, None)])
def test_whether_connects_are_honest_is_what_the_annotation_says_last(
    text: str | None, asked: bool | None
) -> None:
    annotated = table(put(annotations={} if text is None else {"ztun.io/honest-connect": text}))
    (taken,) = steps(annotated, {})
    assert taken.wish.asked.is_honest is asked and "annotation" not in taken.reason
    for before in (True, False, None):
        changes = steps(annotated, {KEY: replace(wish()[KEY], asked=Asked(is_honest=before))})
        assert [change.wish.asked.is_honest for change in changes] == ([] if before is asked else [asked])
        assert all(change.wish == replace(wish()[KEY], asked=Asked(is_honest=asked)) for change in changes)


@pytest.mark.parametrize(
    "text, asked",
    [(None, False), *((text, True) for text in YES), *((text, False) for text in NO)],
)
def test_what_goes_past_the_proxy_is_what_the_annotation_says_last(text: str | None, asked: bool) -> None:
    name = "ambient.istio.io/bypass-inbound-capture"
    annotated = table(put(annotations={} if text is None else {name: text}))
    (taken,) = steps(annotated, {})
    assert taken.wish.asked.is_bypassed is asked and "annotation" not in taken.reason
    for before in (True, False):
        changes = steps(annotated, {KEY: replace(wish()[KEY], asked=Asked(is_bypassed=before))})
        assert [change.wish for change in changes] == (
            [] if before is asked else [replace(wish()[KEY], asked=Asked(is_bypassed=asked))]
        )


@pytest.mark.parametrize(
    "text, asked", [(None, None), ("true", True), ("1", True), ("false", False), ("F", False)]
)
def test_whose_dns_is_captured_is_what_the_annotation_says_last(text: str | None, asked: bool | None) -> None:
    annotated = table(put(annotations={} if text is None else {"ambient.istio.io/dns-capture": text}))
    (taken,) = steps(annotated, {})
    assert taken.wish.asked.is_dns_captured is asked and "annotation" not in taken.reason
    for before in (True, False, None):
        changes = steps(annotated, {KEY: replace(wish()[KEY], asked=Asked(is_dns_captured=before))})
        assert [change.wish for change in changes] == (
            [] if before is asked else [replace(wish()[KEY], asked=Asked(is_dns_captured=asked))]
        )


def test_an_annotation_of_dns_that_cannot_be_read_leaves_it_to_the_node() -> None:
    (taken,) = steps(table(put(annotations={"ambient.istio.io/dns-capture": "yes"})), {})
    assert taken.wish.asked.is_dns_captured is None
    assert "dns-capture is 'yes', neither true nor false: as the node has it" in str(taken)


@pytest.mark.parametrize("text", ["yes", "", "tRUE", "on", "2"])
def test_an_annotation_that_cannot_be_read_leaves_nothing_uncaptured(text: str) -> None:
    (taken,) = steps(table(put(annotations={"ambient.istio.io/bypass-inbound-capture": text})), {})
    assert taken.wish.asked.is_bypassed is False
    assert f"bypass-inbound-capture is {text!r}, neither true nor false" in str(taken)


def test_where_a_pod_is_found_and_what_goes_past_the_proxy_may_change_together() -> None:
    made = table(put(annotations={"ambient.istio.io/bypass-inbound-capture": "true"}))
    made.put_place(FIRST, "sandbox", "/run/netns/x")
    (change,) = steps(made, wish())
    assert change.wish.where == Where(netns="/run/netns/x") and change.wish.asked.is_bypassed


def test_an_annotation_that_is_neither_true_nor_false_is_said_and_counts_for_nothing() -> None:
    (taken,) = steps(table(put(annotations={"ztun.io/honest-connect": "yes"})), {})
    assert taken.wish.asked.is_honest is None
    assert "its annotation ztun.io/honest-connect is 'yes', neither true nor false" in str(taken)


@pytest.mark.parametrize("end", [gone(), put(phase="Succeeded"), put(phase="Failed", address="")])
def test_a_pod_that_ends_is_not_let_go_but_forgotten_and_stays_closed(end: Any) -> None:
    made = table(put())
    made.hear_pods([end])
    (forgotten,) = steps(made, wish())
    assert isinstance(forgotten, Forget)


def test_an_address_that_is_lost_for_a_while_changes_nothing() -> None:
    assert steps(table(put(address="")), wish()) == []


def test_an_address_that_changes_has_the_pod_looked_for_anew_as_the_same_one() -> None:
    before = wish()
    (taken,) = steps(table(put(address="10.0.0.9")), before)
    assert isinstance(taken, Take) and taken.wish.where == found("10.0.0.9")
    assert (taken.wish.since_s, taken.wish.uid) == (1.0, FIRST)
    (taken,) = steps(table(put(address="10.0.0.9")), wish(where=Where(netns="/run/netns/cni-1")))
    assert isinstance(taken, Take) and taken.wish.where == found("10.0.0.9"), (
        "the path is of an agent before this one"
    )


@pytest.mark.parametrize(
    "order", list(permutations([gone(), put(uid=SECOND)])), ids=["in-order", "out-of-order"]
)
def test_a_pod_made_again_with_name_and_address_is_another_wish(order: Any) -> None:
    made = table(put())
    made.hear_pods(order)
    (taken,) = steps(made, wish())
    assert isinstance(taken, Take) and taken.wish.uid == SECOND and taken.wish.bound is None


def test_one_made_again_that_is_not_wanted_is_not_mistaken_for_the_one_before() -> None:
    made = table(put(uid=SECOND, labels={"istio.io/dataplane-mode": "none"}))
    (forgotten,) = steps(made, wish())
    assert isinstance(forgotten, Forget)


def test_what_a_person_enrolled_is_left_to_that_person() -> None:
    for made in (table(), table(put()), table(put(), spaces=(space({}),))):
        assert steps(made, wish("", Where(pid=1), WantedBy.COMMAND)) == []


def test_what_an_earlier_agent_captured_is_matched_by_uid() -> None:
    """Its wishes are lost; the pins say whose the interfaces are."""
    (taken,) = steps(table(put()), {}, {KEY: FIRST})
    assert isinstance(taken, Take)
    (let_go,) = steps(table(put(), spaces=(space({}),)), {}, {KEY: FIRST})
    assert isinstance(let_go, LetGo)
    (forgotten,) = steps(table(), {}, {KEY: FIRST})
    assert isinstance(forgotten, Forget)
    assert steps(table(put(uid=SECOND), spaces=(space({}),)), {}, {KEY: FIRST}) == [], (
        "another pod is in its place"
    )


def test_of_hundreds_of_pods_those_are_decided_anew_of_which_something_was_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pod's start waits for it, on a full node as on an empty one."""
    decided: list[PodKey] = []

    def counting(pod: Pod, namespace: Namespace, rules: Rules) -> Decision:
        decided.append(pod.key)
        return decide(pod, namespace, rules)

    monkeypatch.setattr(pod_table, "decide", counting)
    pods = [
        Put(pod_of(kube.pod(f"p{number}", address="10.0.0.1", uid=f"u{number}"))) for number in range(200)
    ]
    other = Put(pod_of(kube.pod("far", "other", address="10.0.0.2", uid="far")))
    made = table(*pods, put(), other)
    before = made.claims()
    assert len(decided) == 201, "the one whose namespace is not known is not decided"
    decided.clear()
    assert made.claims() is before
    for change in (
        lambda: made.put_place(FIRST, "c1", "/run/netns/cni-1"),
        lambda: made.hear_pods([put("10.0.0.7")]),
        lambda: made.drop_places(lambda sandbox: sandbox == "c1"),
    ):
        change()
        made.claims()
        assert decided == [KEY]
        decided.clear()
    made.hear_namespaces([Put(Namespace("other", "ns2", AMBIENT))])
    made.hear_pods([gone()])
    claims = made.claims()
    assert decided == [PodKey("other", "far")]
    assert claims is not None and KEY not in claims and len(claims) == 201
    made.hear_namespaces([space({})])
    assert {claim.stance for claim in (made.claims() or {}).values()} == {Stance.UNWANTED, Stance.WANTED}
    assert before is not None and before[KEY].stance is Stance.WANTED, "what was said before stays as it was"
