"""What follows from what istio-cni has named, said before and did not say again."""

from __future__ import annotations

import pytest

from agent.enroll.source import Forget, LetGo, Stance, Step, Take, follow
from agent.enroll.wish import PodKey, WantedBy, Where, Wish
from agent.zds.roster import NamedPod, NamespaceTaken, Roster
from redirect.netns import NamespaceId

A, B = PodKey("demo", "a"), PodKey("demo", "b")


def pod(uid: str, key: PodKey = A, number: int = 1) -> NamedPod:
    return NamedPod(uid, key, "web", NamespaceId(number, number))


def wish(named: NamedPod, by: WantedBy = WantedBy.ISTIO_CNI) -> Wish:
    return Wish(
        named.key, Where(handed=named.namespace), by, uid=named.uid, service_account=named.service_account
    )


def steps(roster: Roster, *wishes: Wish) -> list[Step]:
    by_pod = {each.pod: each for each in wishes}
    return list(follow(WantedBy.ISTIO_CNI, roster.claims(), by_pod, {}, 5.0, are_all=roster.is_complete))


def complete(*pods: NamedPod) -> Roster:
    roster = Roster()
    for each in pods:
        roster.add(each)
    roster.is_complete = True
    return roster


def test_what_is_named_is_wanted_where_it_was_handed_over() -> None:
    (step,) = steps(complete(pod("u1")))
    assert isinstance(step, Take) and step.wish.where == Where(handed=NamespaceId(1, 1))
    assert (step.wish.uid, step.wish.service_account) == ("u1", "web")
    assert not steps(complete(pod("u1")), wish(pod("u1"))), "named again it is as it was"


def test_before_the_first_snapshot_nobody_ends() -> None:
    roster = Roster()
    roster.add(pod("u1"))
    assert not steps(roster, wish(pod("u1")), wish(pod("u2", B, 2)))
    roster.is_complete = True
    assert steps(roster, wish(pod("u1")), wish(pod("u2", B, 2))) == [
        Forget(B, "the pod is gone or has ended")
    ]


def test_a_pod_that_another_source_wants_is_left_alone() -> None:
    person = wish(pod("u1"), WantedBy.COMMAND)
    assert not steps(complete(pod("u1")), person) and not steps(complete(), person)


def test_one_that_was_let_go_is_in_clear_and_one_that_is_gone_is_not() -> None:
    roster = complete(pod("u1"), pod("u2", B, 2))
    roster.end(pod("u1"), is_let_go=True)
    roster.end(pod("u2", B, 2), is_let_go=False)
    found = steps(roster, wish(pod("u1")), wish(pod("u2", B, 2)))
    assert [type(step) for step in found] == [LetGo, Forget]
    assert roster.claims()[A].stance is Stance.UNWANTED
    roster.settle({A: wish(pod("u1"))})
    assert A in roster.claims(), "it has not been done yet"
    roster.settle({})
    assert not roster.claims()


def test_another_pod_of_the_name_is_not_let_go_with_the_one_before() -> None:
    roster = complete(pod("u1"), pod("u2", A, 2))
    (step,) = steps(roster, wish(pod("u1")))
    assert isinstance(step, Take) and step.wish.uid == "u2", "the one that was named last"
    roster.end(pod("u1"), is_let_go=True)
    assert not steps(roster, wish(pod("u2", A, 2)))
    roster.add(pod("u1"))
    assert roster.claims()[A].uid == "u1", "named again it is the last"


def test_the_same_uid_elsewhere_replaces_what_was_there() -> None:
    roster = complete(pod("u1"), pod("u1", A, 7))
    (step,) = steps(roster, wish(pod("u1")))
    assert isinstance(step, Take) and step.wish.where == Where(handed=NamespaceId(7, 7))
    assert roster.namespaces == {NamespaceId(7, 7)}


def test_two_pods_never_share_a_namespace() -> None:
    roster = complete(pod("u1"))
    with pytest.raises(NamespaceTaken, match="that of pod demo/a"):
        roster.add(pod("u2", B))
    assert "u2" not in roster.pods
    roster.add(pod("u3", A))  # a static pod has another uid when its mirror is made anew
    roster.begin()
    roster.add(pod("u2", B))  # nobody has named the others since


def test_a_new_connection_knows_who_was_not_named_again_also_of_an_earlier_agent() -> None:
    roster = complete(pod("u1"))
    before = {B: wish(pod("u2", B, 2)), PodKey("demo", "c"): wish(pod("u3", PodKey("demo", "c"), 3))}
    roster.begin()
    assert {each.uid for each in roster.unheard(before)} == {"u1", "u2", "u3"}
    roster.add(pod("u1"))
    roster.keep("u2", before)
    assert [each.uid for each in roster.unheard(before)] == ["u3"]
    assert not steps(roster, before[B]) or steps(roster, before[B])[0].pod != B, "kept: as it was"
    roster.keep("u9", before)
    assert roster.find("u9", before) is None and roster.find("u3", before) is not None
