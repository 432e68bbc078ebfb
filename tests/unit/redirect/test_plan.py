"""The order of steps, on plain values: each situation of docs/KERNEL.md#order-of-changes as one row."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redirect.desired import Desired, DesiredPod, NextHop
from redirect.entries import iface_entry, pod_entry
from redirect.layout import IP, Flag, IfaceEntry
from redirect.observe import POD_PROGRAMS, Observed
from redirect.packet_size import of_link
from redirect.plan import (
    Attach,
    DeleteHostAddress,
    DeleteIface,
    DeletePod,
    DestroySockets,
    Detach,
    EndPastProxy,
    NoteHostFlows,
    PutHostAddress,
    PutIface,
    PutOwner,
    PutPod,
    SetInnerMtu,
    Step,
    closing,
    plan,
)
from redirect.rtnetlink import LinkRow

V4, V6, OTHER = (ip_address(text) for text in ("10.0.0.1", "fd00::1", "10.0.0.2"))
MAC = bytes.fromhex("020000000001")
OTHER_MAC = bytes.fromhex("0200000000ff")
SIZES = {version: of_link(1500, version) for version in (4, 6)}
HOPS = tuple(NextHop(version, bytes.fromhex(f"02000000000{version}"), SIZES[version]) for version in (4, 6))
LINKS = {number: LinkRow(number, f"veth{number}", is_up=True) for number in range(3, 8)}


def pod(ifindex: int, *addresses: IP) -> DesiredPod:
    return DesiredPod(ifindex, f"veth{ifindex}", addresses, MAC, HOPS)


def sized(each: DesiredPod, mtu_bytes: int) -> DesiredPod:
    """The pod with another MTU inside."""
    return replace(each, hops=tuple(replace(hop, size=of_link(mtu_bytes, hop.version)) for hop in each.hops))


def behind(mtu_bytes: int) -> dict[int, LinkRow]:
    """The node's interfaces, each of that MTU."""
    return {number: replace(link, mtu_bytes=mtu_bytes) for number, link in LINKS.items()}


def wanted(*pods: DesiredPod, host: frozenset[IP] = frozenset()) -> Desired:
    return Desired(pods, host)


def captured(*pods: DesiredPod, inner: int = 1500) -> Observed:
    """The kernel as it is once these pods are captured."""
    return Observed(
        pods={ip: pod_entry(each, ip, LINKS[each.ifindex]) for each in pods for ip in each.addresses},
        ifaces={each.ifindex: iface_entry(each) for each in pods},
        attached=frozenset((each.ifindex, program) for each in pods for program in POD_PROGRAMS),
        links=LINKS,
        inner_mtu_bytes=inner,
    )


def run(steps: tuple[Step, ...], before: Observed) -> Observed:
    """What the kernel has after the steps."""
    pods, ifaces = dict(before.pods), dict(before.ifaces)
    attached, stale, host = set(before.attached), set(before.stale), set(before.host_addresses)
    inner = before.inner_mtu_bytes
    for step in steps:
        match step:
            case PutIface(ifindex, entry):
                ifaces[ifindex] = entry
            case DeleteIface(ifindex):
                del ifaces[ifindex]
            case PutPod(address, entry):
                pods[address] = entry
            case DeletePod(address, ifindex):
                if pods[address].ifindex == ifindex:
                    del pods[address]
            case Attach(ifindex, program):
                attached.add((ifindex, program))
                stale.discard((ifindex, program))
            case Detach(ifindex, program):
                attached.discard((ifindex, program))
                stale.discard((ifindex, program))
            case PutHostAddress(address):
                host.add(address)
            case DeleteHostAddress(address):
                host.remove(address)
            case SetInnerMtu(mtu_bytes):
                inner = mtu_bytes
    return Observed(pods, ifaces, frozenset(host), frozenset(attached), frozenset(stale), before.links, inner)


def drained(each: DesiredPod) -> IfaceEntry:
    return replace(iface_entry(each), flags=Flag.DRAIN)


def put(address: IP, flags: Flag, ifindex: int) -> PutPod:
    return PutPod(address, replace(pod_entry(pod(ifindex, address), address, LINKS[ifindex]), flags=flags))


A = pod(5, V4, V6)
BYPASSED = replace(A, flags=Flag.ENROLLED | Flag.BYPASS)
GONE = Observed(pods=captured(A).pods, ifaces=captured(A).ifaces, stale=captured(A).attached)
ENROLLED, DRAIN = Flag.ENROLLED, Flag.DRAIN

ROWS = {
    "a pod appears: closed, programs, addresses": (
        wanted(A),
        Observed(links={5: LINKS[5]}),
        (
            PutIface(5, iface_entry(A)),
            Attach(5, "from_pod"),
            Attach(5, "to_pod"),
            put(V4, ENROLLED, 5),
            put(V6, ENROLLED, 5),
        ),
    ),
    "nothing differs": (wanted(A), captured(A), ()),
    "inbound connections are captured again: those past the proxy end while they pass, and those that came last": (
        wanted(A),
        captured(BYPASSED),
        (EndPastProxy(5, (V4, V6)), PutIface(5, iface_entry(A)), EndPastProxy(5, (V4, V6))),
    ),
    "inbound connections go past the proxy: those that it has are left": (
        wanted(BYPASSED),
        captured(A),
        (PutIface(5, iface_entry(BYPASSED)),),
    ),
    "a pod is let go: its sockets are destroyed while it drains": (
        wanted(),
        captured(A),
        (
            PutIface(5, drained(A)),
            put(V4, DRAIN, 5),
            put(V6, DRAIN, 5),
            DestroySockets(frozenset({V4, V6}), 5),
            DeletePod(V4, 5),
            DeletePod(V6, 5),
            DeleteIface(5),
            Detach(5, "from_pod"),
            Detach(5, "to_pod"),
        ),
    ),
    "a pod is deleted: nothing to drain, its pins are left": (
        wanted(),
        GONE,
        (
            DestroySockets(frozenset({V4, V6}), 5),
            DeletePod(V4, 5),
            DeletePod(V6, 5),
            DeleteIface(5),
            Detach(5, "from_pod"),
            Detach(5, "to_pod"),
        ),
    ),
    "a desired pod's interface is gone: it goes, the others come": (
        wanted(A, pod(6, OTHER)),
        Observed(GONE.pods, GONE.ifaces, stale=GONE.stale, links={6: LINKS[6]}),
        (
            PutIface(6, iface_entry(pod(6, OTHER))),
            Attach(6, "from_pod"),
            Attach(6, "to_pod"),
            put(OTHER, ENROLLED, 6),
            DestroySockets(frozenset({V4, V6}), 5),
            DeletePod(V4, 5),
            DeletePod(V6, 5),
            DeleteIface(5),
            Detach(5, "from_pod"),
            Detach(5, "to_pod"),
        ),
    ),
    "an address moves: new owner closed first, old sockets destroyed, the rest of the old one released": (
        wanted(pod(6, V4)),
        captured(A),
        (
            PutIface(6, iface_entry(pod(6, V4))),
            Attach(6, "from_pod"),
            Attach(6, "to_pod"),
            DestroySockets(frozenset({V4}), 6),
            put(V4, ENROLLED, 6),
            PutIface(5, drained(A)),
            put(V6, DRAIN, 5),
            DestroySockets(frozenset({V6}), 5),
            DeletePod(V6, 5),
            DeleteIface(5),
            Detach(5, "from_pod"),
            Detach(5, "to_pod"),
        ),
    ),
    "a captured pod changes an address": (
        wanted(pod(5, OTHER, V6)),
        captured(A),
        (
            PutIface(5, iface_entry(pod(5, OTHER, V6))),
            put(OTHER, ENROLLED, 5),
            DestroySockets(frozenset({V4}), 5),
            DeletePod(V4, 5),
        ),
    ),
    "a captured pod changes its MAC, or its next hop does: nothing else happens": (
        wanted(replace(A, mac=OTHER_MAC, hops=(HOPS[0], NextHop(6, OTHER_MAC, SIZES[6])))),
        captured(A),
        (
            PutIface(5, replace(iface_entry(A), mac=OTHER_MAC)),
            PutPod(V4, replace(put(V4, ENROLLED, 5).entry, pod_mac=OTHER_MAC)),
            PutPod(V6, replace(put(V6, ENROLLED, 5).entry, pod_mac=OTHER_MAC, hop_mac=OTHER_MAC)),
        ),
    ),
    "a program of an older version is swapped": (
        wanted(A),
        Observed(
            pods=captured(A).pods,
            ifaces=captured(A).ifaces,
            attached=frozenset({(5, "to_pod")}),
            stale=frozenset({(5, "from_pod")}),
            links={5: LINKS[5]},
        ),
        (Attach(5, "from_pod"),),
    ),
    "un-enrolment that was interrupted goes on": (
        wanted(),
        Observed(attached=frozenset({(5, "to_pod")}), links={5: LINKS[5]}),
        (Detach(5, "to_pod"),),
    ),
    "a larger pod appears: room for it first": (
        wanted(sized(A, 9000)),
        replace(captured(), links=behind(9000)),
        (
            SetInnerMtu(9000),
            PutIface(5, iface_entry(A)),
            Attach(5, "from_pod"),
            Attach(5, "to_pod"),
            PutPod(V4, replace(put(V4, ENROLLED, 5).entry, mtu_bytes=9000, mss_bytes=8960)),
            PutPod(V6, replace(put(V6, ENROLLED, 5).entry, mtu_bytes=9000, mss_bytes=8940)),
        ),
    ),
    "the node's end of a pod's veth gets a smaller MTU: its packets first, the devices after them": (
        wanted(A),
        replace(captured(A), links=behind(1400)),
        (
            PutPod(V4, replace(put(V4, ENROLLED, 5).entry, mtu_bytes=1400, mss_bytes=1360)),
            PutPod(V6, replace(put(V6, ENROLLED, 5).entry, mtu_bytes=1400, mss_bytes=1340)),
            SetInnerMtu(1400),
        ),
    ),
    "the node's end of a pod's veth gets a queue: deliveries go through it": (
        wanted(pod(5, V4)),
        replace(captured(pod(5, V4)), links={5: replace(LINKS[5], qdisc="tbf")}),
        (put(V4, ENROLLED | Flag.QUEUED, 5),),
    ),
    "a qdisc that keeps nothing is no queue": (
        wanted(pod(5, V4)),
        replace(captured(pod(5, V4)), links={5: replace(LINKS[5], qdisc="noop")}),
        (),
    ),
    "a pod with a queue is let go: it keeps it to the end": (
        wanted(),
        replace(captured(pod(5, V4)), pods={V4: put(V4, ENROLLED | Flag.QUEUED, 5).entry}),
        (
            PutIface(5, drained(pod(5, V4))),
            put(V4, DRAIN | Flag.QUEUED, 5),
            DestroySockets(frozenset({V4}), 5),
            DeletePod(V4, 5),
            DeleteIface(5),
            Detach(5, "from_pod"),
            Detach(5, "to_pod"),
        ),
    ),
    "the inner devices have room for the largest pod, not for each": (
        wanted(A, sized(pod(6, OTHER), 1400)),
        captured(A, sized(pod(6, OTHER), 1400)),
        (),
    ),
    "they keep what IPv6 needs, however small pods are": (
        wanted(sized(A, 700)),
        captured(sized(A, 700)),
        (SetInnerMtu(1280),),
    ),
    "they are not there: whoever makes them sees to that": (wanted(A), captured(A, inner=0), ()),
    "addresses of the node": (
        wanted(host=frozenset({V4})),
        Observed(host_addresses=frozenset({OTHER})),
        (PutHostAddress(V4), DeleteHostAddress(OTHER)),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_the_steps_and_their_order(row: tuple[Desired, Observed, tuple[Step, ...]]) -> None:
    desired, observed, steps = row
    assert plan(desired, observed) == steps


def test_what_a_pod_sends_can_be_stopped_alone_where_it_never_ran() -> None:
    nobody = IfaceEntry(ENROLLED | Flag.GUARDED, bytes(16), bytes(16))
    assert closing([3], {}, {3: "demo/web uid"}, is_outward_only=True) == (
        PutIface(3, nobody),
        Attach(3, "from_pod"),
        PutOwner(3, "demo/web uid"),
    )
    running = closing([4], {4: (V4,)}, {}, is_outward_only=True)
    assert running == closing([4], {4: (V4,)}, {}), "of one that ran both directions count"


def test_one_that_ran_may_stay_open_until_it_is_captured_and_its_first_captured_packet_is_answered() -> None:
    learnt = IfaceEntry(Flag.LEARN, bytes(16), bytes(16), learnt_until_s=77)
    assert closing([5], {5: (V4,)}, {5: "demo/web uid"}, learnt={5}, learnt_until_s=77) == (
        PutIface(5, learnt),
        Attach(5, "to_pod"),
        NoteHostFlows(((V4, 5),)),
        Attach(5, "from_pod"),
        PutOwner(5, "demo/web uid"),
    )
    assert closing([3], {}, {}, learnt={3}) == closing([3], {}, {}), "one that never ran is closed"
    seen = replace(captured(A), pods={}, ifaces={5: learnt})
    assert plan(wanted(A), seen) == (put(V4, ENROLLED, 5), put(V6, ENROLLED, 5), PutIface(5, iface_entry(A)))
    closed = replace(A, addresses=())
    assert plan(wanted(closed), seen) == (PutIface(5, iface_entry(closed)),), (
        "or closed, where it is not served"
    )


def test_a_closed_interface_lets_nothing_out_first_and_one_that_ran_loses_nothing_its_node_asked() -> None:
    nobody = IfaceEntry(ENROLLED | Flag.GUARDED, bytes(16), bytes(16))
    assert closing([3, 4, 5, 6], {4: (V4, V6), 6: ()}, {3: "demo/web uid", 4: ""}) == (
        PutIface(3, nobody),
        Attach(3, "from_pod"),
        PutIface(5, nobody),
        Attach(5, "from_pod"),
        Attach(3, "to_pod"),
        Attach(5, "to_pod"),
        # What the node asks is noted from here on, and what it has asked after that; then answers are looked at.
        PutIface(4, nobody),
        Attach(4, "to_pod"),
        PutIface(6, nobody),
        Attach(6, "to_pod"),
        NoteHostFlows(((V4, 4), (V6, 4))),
        Attach(4, "from_pod"),
        Attach(6, "from_pod"),
        PutOwner(3, "demo/web uid"),
    )


ADDRESSES = [ip_address(f"10.0.0.{number}") for number in range(1, 5)] + [
    ip_address(f"fd00::{number}") for number in range(1, 5)
]


@st.composite
def sets_of_pods(draw: st.DrawFn) -> tuple[DesiredPod, ...]:
    """Pods on a few interfaces that share no address."""
    free, made = list(ADDRESSES), []
    for ifindex in draw(st.sets(st.integers(3, 7), max_size=4)):
        mine: list[IP] = []
        for version in (4, 6):
            choice = draw(st.sampled_from([None, *(ip for ip in free if ip.version == version)]))
            if choice is not None:
                free.remove(choice)
                mine.append(choice)
        if mine:
            made.append(pod(ifindex, *mine))
    return tuple(made)


@given(sets_of_pods(), sets_of_pods(), st.booleans())
def test_after_the_steps_everything_is_as_desired_and_nothing_is_left_to_do(
    before: tuple[DesiredPod, ...], after: tuple[DesiredPod, ...], has_interfaces: bool
) -> None:
    desired, observed = Desired(after, frozenset({OTHER})), captured(*before)
    if not has_interfaces:
        observed = replace(observed, attached=frozenset(), stale=observed.attached, links={})
    result = run(plan(desired, observed), observed)
    assert plan(desired, result) == ()
    expected = captured(*(after if has_interfaces else ()))
    assert (result.pods, result.ifaces) == (expected.pods, expected.ifaces)
    assert (result.attached, result.stale) == (expected.attached, frozenset())


@given(sets_of_pods(), sets_of_pods())
def test_an_address_never_moves_before_its_new_owner_is_closed(
    before: tuple[DesiredPod, ...], after: tuple[DesiredPod, ...]
) -> None:
    observed = captured(*before)
    steps = plan(Desired(after, frozenset()), observed)
    for number, step in enumerate(steps):
        if not isinstance(step, PutPod) or step.entry.flags != ENROLLED:
            continue
        result = run(steps[:number], observed)
        assert result.ifaces[step.entry.ifindex].flags == ENROLLED | Flag.GUARDED
        assert {(step.entry.ifindex, program) for program in POD_PROGRAMS} <= result.attached
        owner = observed.pods.get(step.address)
        if owner is not None and owner.ifindex != step.entry.ifindex:
            assert DestroySockets(frozenset({step.address}), step.entry.ifindex) in steps[:number]
