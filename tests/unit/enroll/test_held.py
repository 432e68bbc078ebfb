"""Which interfaces stay captured, whose they are, and what is left to a closed one."""

from __future__ import annotations

from agent.enroll.held import HeldInterfaces
from agent.enroll.sighting import Sighting
from agent.enroll.wish import PodKey
from agent.model.address import parse_ip
from tests.support.enrolment import place

ONE, TWO = PodKey("apps", "one"), PodKey("apps", "two")
PRESENT = {number: f"veth{number}" for number in range(1, 6)}
PINS = HeldInterfaces.of_pins([place(1), place(2)])


def sees(**ends: set[int]) -> dict[PodKey, Sighting]:
    return {PodKey("apps", name): Sighting(ends=frozenset(found)) for name, found in ends.items()}


def test_what_leads_to_a_wished_pod_is_held_for_it_without_an_address() -> None:
    held = HeldInterfaces().seen(sees(one={3, 4}), PRESENT)
    assert held.of(ONE) == {3, 4} and held.indexes == {3, 4}
    assert {(each.ifname, each.addresses) for each in held.places([])} == {("veth3", ()), ("veth4", ())}


def test_what_was_captured_before_is_held_as_it_was_until_somebody_owns_it() -> None:
    assert set(PINS.unowned) == {place(1), place(2)}
    held = PINS.seen(sees(one={1}), PRESENT)
    assert held.unowned == (place(2),) and held.of(ONE) == {1}
    assert set(held.places([])) == {place(1), place(2)}


def test_an_interface_stays_with_its_pod_when_it_no_longer_leads_there() -> None:
    held = PINS.seen(sees(one={1}), PRESENT).seen(sees(one=set()), PRESENT)
    assert held.of(ONE) == {1}


def test_what_is_gone_is_not_held_and_named() -> None:
    held = PINS.seen(sees(one={1}), PRESENT)
    without = {index: name for index, name in PRESENT.items() if index != 1}
    assert list(held.gone(without)) == [(ONE, "veth1")]
    assert held.seen({}, without).indexes == {2}
    assert HeldInterfaces().seen(sees(one={1}), without).indexes == frozenset(), "seen a moment too late"


def test_an_address_is_with_the_pod_that_is_served_with_it_alone() -> None:
    """Two interfaces with one address would take it from each other for ever."""
    held = PINS.seen(sees(one={1}, two={5}), PRESENT)
    served = place(5, "10.0.0.1", "fd00::1")
    found = {each.ifindex: each.addresses for each in held.places([served])}
    assert found == {1: (), 2: (parse_ip("10.0.0.2"),), 5: served.addresses}


def test_what_a_pod_held_is_let_go_with_it() -> None:
    held = PINS.seen(sees(one={1}, two={2}), PRESENT)
    assert held.without(ONE).indexes == {2} and held.only({1}).indexes == {1}
