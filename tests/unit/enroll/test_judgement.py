"""Who is served, on plain values: the pod of a namespace, a newcomer, and those who claim what another has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from agent.enroll.enrolled_pod import EnrolledPod, enrolled_pod
from agent.enroll.judgement import Judge, Judgement
from agent.enroll.sighting import Sighting
from agent.enroll.treatment import Asked, Honesty, Ways
from agent.enroll.trouble import Missing
from agent.enroll.wish import Binding, PodKey, Wish
from agent.model.address import parse_ip
from agent.model.workload import Workload
from redirect.layout import Flag
from redirect.locate import Place
from redirect.netns import NamespaceId
from tests.support import mesh
from tests.support.enrolment import place, where, wish

ONE = mesh.workload("one", "10.0.0.1", service_account="one")


def bound(number: int, name: str, account: str, namespace: int | None = None) -> Wish:
    """A wish whose pod was served before, in namespace `number` unless told otherwise."""
    inode = number if namespace is None else namespace
    return replace(wish(number, name), bound=Binding(NamespaceId(inode, inode), account, "cluster.local"))


def seen(found: Place) -> Sighting:
    return Sighting(found, frozenset({found.ifindex}), nsid=found.nsid)


def judged(
    wishes: Mapping[Wish, Place],
    *workloads: Workload,
    current: tuple[EnrolledPod, ...] = (),
    uncertified: str = "",
) -> Judgement:
    judge = Judge(
        mesh.snapshot(*workloads), "n1", "", lambda _: uncertified, {pod.key: pod for pod in current}
    )
    sightings = {each.pod: seen(found) for each, found in wishes.items()}
    return judge.judge({each.pod: each for each in wishes}, sightings)


def accounts(judgement: Judgement) -> dict[str, str]:
    return {pod.name: pod.service_account for pod in judgement.pods.values()}


def test_in_its_namespace_a_pod_stays_who_it_was_and_in_another_it_may_be_somebody_else() -> None:
    other = mesh.workload("one", "10.0.0.1", service_account="other")
    same = judged({bound(1, "one", "one"): place(1)}, other)
    assert same.pods == {} and [trouble.missing for trouble in same.troubles] == [Missing.WORKLOAD]
    assert accounts(judged({bound(1, "one", "one", namespace=77): place(1)}, other)) == {"one": "other"}


def test_a_pod_that_comes_back_needs_all_of_its_addresses_and_one_that_stayed_any() -> None:
    both = mesh.workload("one", "10.0.0.1", "fd00::1", service_account="one")
    assert accounts(judged({bound(1, "one", "one"): place(1)}, both)) == {"one": "one"}
    back = judged({bound(1, "one", "one", namespace=77): place(1)}, both)
    assert back.pods == {} and [trouble.missing for trouble in back.troubles] == [Missing.ADDRESS]


def test_the_first_time_waits_for_a_certificate_and_a_pod_that_had_one_does_not() -> None:
    first = judged({wish(1, "one"): place(1)}, ONE, uncertified="the CA is away")
    assert first.pods == {} and [str(identity) for identity in first.identities] == [
        "spiffe://cluster.local/ns/apps/sa/one"
    ]
    assert "the CA is away" in str(first.troubles[0])
    assert accounts(judged({bound(1, "one", "one"): place(1)}, ONE, uncertified="away")) == {"one": "one"}


def test_who_is_served_with_an_address_keeps_it_whatever_the_newcomer_is_called() -> None:
    current = enrolled_pod(ONE, place(1))
    early = mesh.workload("a", "10.0.0.1", service_account="a")
    newcomer = place(2, "10.0.0.1")
    result = judged(
        {bound(1, "one", "one"): place(1), wish(2, "a"): newcomer}, ONE, early, current=(current,)
    )
    assert accounts(result) == {"one": "one"}
    assert [(str(each.pod), each.missing) for each in result.troubles] == [("apps/a", Missing.ADDRESS)]


def test_two_pods_that_were_both_served_with_an_address_do_not_both_have_it() -> None:
    first, second = bound(1, "a", "a"), bound(2, "b", "b")
    listed = [mesh.workload(name, "10.0.0.1", service_account=name) for name in "ab"]
    result = judged({first: place(1), second: place(2, "10.0.0.1")}, *listed)
    assert accounts(result) == {"a": "a"} and "apps/a is enrolled with 10.0.0.1 too" in str(
        result.troubles[0]
    )


def test_a_wish_that_was_not_looked_for_yet_is_neither_served_nor_in_trouble() -> None:
    judge = Judge(mesh.snapshot(ONE), "n1", "", lambda _: "", {})
    asked = wish(1, "one")
    assert judge.judge({asked.pod: asked}, {}) == Judgement({}, frozenset(), ())


def test_a_pod_that_is_away_keeps_its_certificate_while_the_mesh_lists_it() -> None:
    away = Sighting(missing=Missing.NAMESPACE, text="there is no namespace")
    asked = bound(1, "one", "one")
    judge = Judge(mesh.snapshot(ONE), "n1", "", lambda _: "", {})
    result = judge.judge({asked.pod: asked}, {asked.pod: away})
    assert {identity.service_account for identity in result.identities} == {"one"}
    assert [trouble.is_expected for trouble in result.troubles] == [False]
    nowhere = Judge(mesh.snapshot(), "n1", "", lambda _: "", {}).judge({asked.pod: asked}, {asked.pod: away})
    assert not nowhere.identities and [trouble.is_expected for trouble in nowhere.troubles] == [True]
    elsewhere = mesh.snapshot(mesh.workload("one", "10.0.0.1", service_account="one", node="n2"))
    moved = Judge(elsewhere, "n1", "", lambda _: "", {}).judge({asked.pod: asked}, {asked.pod: away})
    assert [trouble.is_expected for trouble in moved.troubles] == [True], "it runs on another node now"


def test_only_addresses_that_are_listed_are_served() -> None:
    result = judged({wish(1, "one"): place(1, "10.0.0.1", "10.0.0.2")}, ONE)
    (pod,) = result.pods.values()
    assert (pod.addresses, pod.closed) == ((parse_ip("10.0.0.1"),), (parse_ip("10.0.0.2"),))
    assert pod.key == PodKey("apps", "one") and where(1) == wish(1, "one").where


def test_whoever_names_the_account_is_not_given_a_pod_with_another() -> None:
    for asked in (wish(1, "one"), bound(1, "one", "one")):
        assert accounts(judged({replace(asked, service_account="one"): place(1)}, ONE)) == {"one": "one"}
        other = judged({replace(asked, service_account="two"): place(1)}, ONE)
        assert not other.pods and not other.identities
        assert "lists it with account one, and ztun enroll says that it runs as two" in other.troubles[0].text


def test_connections_to_a_pod_go_past_the_proxy_where_its_wish_says_so_now() -> None:
    judge = Judge(mesh.snapshot(ONE), "n1", "", lambda _: "", {})
    sighting = seen(place(1))
    for asked in (False, True, False):
        found = replace(wish(1, "one"), asked=Asked(is_bypassed=asked))
        (pod,) = judge.judge({found.pod: found}, {found.pod: sighting}).pods.values()
        assert (Flag.BYPASS in pod.place.treatment) is asked
        assert (Flag.BYPASS in pod.place.desired().flags) is asked
        assert Place.of(pod.place.desired()).treatment == pod.place.treatment


def test_of_hundreds_of_pods_the_one_that_changed_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are judged again with each turn, and a pod's start may wait for one."""
    numbers = range(1, 10)
    workloads = [mesh.workload(f"p{n}", f"10.0.0.{n}", service_account=f"p{n}") for n in numbers]
    wishes = {each.pod: each for each in (bound(n, f"p{n}", f"p{n}") for n in numbers)}
    sightings = {each.pod: seen(place(n)) for n, each in zip(numbers, wishes.values(), strict=True)}
    judge = Judge(mesh.snapshot(*workloads), "n1", "", lambda _: "", {})
    made: list[Asked] = []
    treatment = Ways.treatment

    def counting(ways: Ways, asked: Asked) -> Flag:
        made.append(asked)
        return treatment(ways, asked)

    monkeypatch.setattr(Ways, "treatment", counting)
    before = judge.judge(wishes, sightings)
    assert len(before.pods) == len(made) == 9
    again = judge.judge(wishes, sightings)
    assert len(made) == 9 and all(again.pods[key] is pod for key, pod in before.pods.items())
    changed = replace(wishes[PodKey("apps", "p3")], asked=Asked(is_bypassed=True))
    after = judge.judge(wishes | {changed.pod: changed}, sightings)
    assert len(made) == 10 and Flag.BYPASS in after.pods[changed.pod].place.treatment


def test_whose_connects_are_honest_is_the_nodes_choice_and_then_the_wishs() -> None:
    expected = {
        Honesty.OFF: {None: False, True: False, False: False},
        Honesty.PODS: {None: False, True: True, False: False},
        Honesty.ALL: {None: True, True: True, False: False},
    }
    for honesty, answers in expected.items():
        judge = Judge(mesh.snapshot(ONE), "n1", "", lambda _: "", {}, Ways(honesty))
        for asked, is_honest in answers.items():
            found = replace(wish(1, "one"), asked=Asked(asked))
            (pod,) = judge.judge({found.pod: found}, {found.pod: seen(place(1))}).pods.values()
            assert (Flag.HONEST in pod.place.treatment) is is_honest, (honesty, asked)
            assert (Flag.HONEST in pod.place.desired().flags) is is_honest
            assert Place.of(pod.place.desired()).treatment == pod.place.treatment


@pytest.mark.parametrize("is_on", [False, True])
def test_whose_dns_is_captured_is_the_nodes_choice_and_then_the_wishs(is_on: bool) -> None:
    judge = Judge(mesh.snapshot(ONE), "n1", "", lambda _: "", {}, Ways(is_dns_captured=is_on))
    for asked, expected in {None: is_on, True: True, False: False}.items():
        found = replace(wish(1, "one"), asked=Asked(is_dns_captured=asked))
        (pod,) = judge.judge({found.pod: found}, {found.pod: seen(place(1))}).pods.values()
        assert (Flag.DNS in pod.place.treatment) is expected
        assert (Flag.DNS in pod.place.desired().flags) is expected
        assert Place.of(pod.place.desired()).treatment == pod.place.treatment
