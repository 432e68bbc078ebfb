"""How many new interfaces one look closes."""

from __future__ import annotations

from agent.enroll.search import CLOSED_AT_ONCE, of_later
from agent.enroll.wish import PodKey
from redirect.rtnetlink import LinkRow


def new(*pods: tuple[str, int]) -> dict[int, tuple[PodKey, LinkRow]]:
    """Pods with so many interfaces each, numbered in that order."""
    keys = [PodKey("apps", name) for name, count in pods for _ in range(count)]
    return {number: (key, LinkRow(number, f"veth{number}")) for number, key in enumerate(keys, 1)}


def test_many_new_interfaces_are_closed_look_by_look_and_those_of_a_pod_together() -> None:
    most = CLOSED_AT_ONCE
    assert not of_later(new(("a", most)), ())
    assert of_later(new(("a", most - 1), ("b", 2)), ()) == {most, most + 1}
    assert of_later(new(("a", most - 1), ("b", 2), ("c", 1)), ()) == {most, most + 1}
    assert not of_later(new(("a", most + 9)), ()), "one pod has all that it takes"


def test_who_waits_for_nobody_is_in_this_look() -> None:
    many = new(*((f"pod-{number}", 1) for number in range(2 * CLOSED_AT_ONCE)))
    last = PodKey("apps", f"pod-{2 * CLOSED_AT_ONCE - 1}")
    later = of_later(many, {last})
    assert 2 * CLOSED_AT_ONCE not in later and len(later) == CLOSED_AT_ONCE
    assert not of_later(many, {key for key, _ in many.values()})
