"""Which interfaces stay captured, whose they are, and what is left to a closed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.enroll.held import HeldInterfaces
from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey, Wish
from agent.model.address import parse_ip
from tests.support.enrolment import place, where

ONE, TWO = PodKey("apps", "one"), PodKey("apps", "two")
PRESENT = {number: f"veth{number}" for number in range(1, 6)}
PINS = HeldInterfaces.of_pins([place(1), place(2)])


class Wishes(dict[PodKey, Wish]):
    """Everybody is wished for, with a uid that ends in its name."""

    def __missing__(self, key: PodKey) -> Wish:
        return Wish(key, where(1), uid=f"uid-{key.name}")


WISHES: Mapping[PodKey, Wish] = Wishes()


def sees(**ends: set[int]) -> dict[PodKey, Sighting]:
    return {PodKey("apps", name): Sighting(ends=frozenset(found)) for name, found in ends.items()}


def test_what_leads_to_a_wished_pod_is_held_for_it_without_an_address() -> None:
    held = HeldInterfaces().seen(sees(one={3, 4}), PRESENT, WISHES)
    assert held.of(ONE) == {3, 4} and held.indexes == {3, 4}
    assert {(each.ifname, each.addresses) for each in held.places([])} == {("veth3", ()), ("veth4", ())}


def test_what_was_captured_before_is_held_as_it_was_until_somebody_owns_it() -> None:
    assert {each.place for each in PINS.unwished(())} == {place(1), place(2)}
    held = PINS.seen(sees(one={1}), PRESENT, WISHES)
    assert [each.place for each in held.unwished([ONE])] == [place(2)] and held.of(ONE) == {1}
    assert set(held.places([])) == {replace(place(1), owner="apps/one uid-one"), place(2)}


def test_an_interface_stays_with_its_pod_when_it_no_longer_leads_there() -> None:
    held = PINS.seen(sees(one={1}), PRESENT, WISHES).seen(sees(one=set()), PRESENT, WISHES)
    assert held.of(ONE) == {1}


def test_what_is_gone_is_not_held_and_named() -> None:
    held = PINS.seen(sees(one={1}), PRESENT, WISHES)
    without = {index: name for index, name in PRESENT.items() if index != 1}
    assert list(held.gone(without)) == [(ONE, "veth1")]
    assert held.seen({}, without, WISHES).indexes == {2}
    assert HeldInterfaces().seen(sees(one={1}), without, WISHES).indexes == frozenset(), (
        "seen a moment too late"
    )


def test_an_address_is_with_the_pod_that_is_served_with_it_alone() -> None:
    """Two interfaces with one address would take it from each other for ever."""
    held = PINS.seen(sees(one={1}, two={5}), PRESENT, WISHES)
    served = place(5, "10.0.0.1", "fd00::1")
    found = {each.ifindex: each.addresses for each in held.places([served])}
    assert found == {1: (), 2: (parse_ip("10.0.0.2"),), 5: served.addresses}


def test_whose_an_interface_is_outlives_the_agent_in_its_pin() -> None:
    pins = list(PINS.seen(sees(one={1}), PRESENT, WISHES).places([place(1)]))
    again = HeldInterfaces.of_pins(pins)
    assert again.of(ONE) == {1} and again.left(()) == {ONE: "uid-one"} and again.left([ONE]) == {}
    assert [each.place for each in again.unwished([ONE])] == [place(2)]
    assert again.by_index[2].pod is None, "a pin of a version that noted nothing"


def test_what_a_pod_held_is_let_go_with_it() -> None:
    held = PINS.seen(sees(one={1}, two={2}), PRESENT, WISHES)
    assert held.without(ONE).indexes == {2} and held.only({1}).indexes == {1}
