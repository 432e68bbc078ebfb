"""Computes the steps from what the kernel has to what it should have. Pure; a second plan is empty.

The order is the point (docs/KERNEL.md#order-of-changes). A pod appears: interface closed, programs on,
sockets of an address's former owner destroyed, address moved. Pods go: their sockets are destroyed while they
drain, so that both ends are reset, then its addresses are freed, but only those that still point at its
interface.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from redirect.desired import Desired, DesiredPod
from redirect.entries import entries_of
from redirect.layout import IP, NO_ADDRESS, Flag, IfaceEntry, PodEntry, address_key
from redirect.observe import POD_PROGRAMS, Observed
from redirect.rtnetlink import DEFAULT_MTU_BYTES

LEAST_MTU_BYTES = 1280
"""With less, a device loses its IPv6 routes."""
LEARNT_S = 10
"""So long a pod may be learnt: a turn takes in some of them and takes a second, on a busy machine a few."""
CLOSED = IfaceEntry(Flag.ENROLLED | Flag.GUARDED, NO_ADDRESS, NO_ADDRESS)
"""An interface of which nothing is known yet, or whose capture failed: no address is its own."""


@dataclass(frozen=True, slots=True)
class PutIface:
    ifindex: int
    entry: IfaceEntry

    def __str__(self) -> str:
        state = "drain" if self.entry.flags & Flag.DRAIN else "close"
        if self.entry.flags & Flag.LEARN:
            return f"learn what interface {self.ifindex} carries"
        return f"{state} interface {self.ifindex} ({', '.join(map(str, self.entry.addresses))})"


@dataclass(frozen=True, slots=True)
class Acquaint:
    """Tell the programs which neighbours the pod knows already."""

    ifindex: int

    def __str__(self) -> str:
        return f"learn the neighbours of interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class NoteHostFlows:
    """Connections of the node to these addresses, each behind an interface, are answered."""

    owners: tuple[tuple[IP, int], ...]

    def __str__(self) -> str:
        return f"note the node's connections to {', '.join(str(address) for address, _ in self.owners)}"


@dataclass(frozen=True, slots=True)
class PutOwner:
    """A note for the process after this one; no packet depends on it."""

    ifindex: int
    text: str

    def __str__(self) -> str:
        return f"note whose interface {self.ifindex} is: {self.text}"


@dataclass(frozen=True, slots=True)
class DeleteIface:
    ifindex: int

    def __str__(self) -> str:
        return f"forget interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class Attach:
    ifindex: int
    program: str

    def __str__(self) -> str:
        return f"attach {self.program} to interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class GoAhead:
    """Of what is attached: before the programs of others."""

    ifindex: int
    program: str

    def __str__(self) -> str:
        return f"put {self.program} of interface {self.ifindex} before the programs of others"


@dataclass(frozen=True, slots=True)
class Detach:
    ifindex: int
    program: str

    def __str__(self) -> str:
        return f"detach {self.program} from interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class DestroySockets:
    """Those of the proxy, in both private namespaces; done for the pod of `ifindex`, which comes or goes."""

    addresses: frozenset[IP]
    ifindex: int

    def __str__(self) -> str:
        return f"destroy the proxy's sockets of {', '.join(sorted(map(str, self.addresses)))}"


@dataclass(frozen=True, slots=True)
class EndPastProxy:
    """Connections into a pod that the proxy knows nothing of, before they are captured and once they are."""

    ifindex: int
    addresses: tuple[IP, ...]

    def __str__(self) -> str:
        return f"end the connections past the proxy of interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class PutPod:
    address: IP
    entry: PodEntry

    def __str__(self) -> str:
        state = "drain" if self.entry.flags & Flag.DRAIN else "capture"
        return f"{state} {self.address} at interface {self.entry.ifindex}"


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Only while the address still points at `ifindex`."""

    address: IP
    ifindex: int

    def __str__(self) -> str:
        return f"release {self.address} from interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class PutHostAddress:
    address: IP

    def __str__(self) -> str:
        return f"note the node's address {self.address}"


@dataclass(frozen=True, slots=True)
class DeleteHostAddress:
    address: IP

    def __str__(self) -> str:
        return f"forget the node's address {self.address}"


@dataclass(frozen=True, slots=True)
class SetInnerMtu:
    """Of the devices that lead into the private namespaces."""

    mtu_bytes: int

    def __str__(self) -> str:
        return f"set the MTU of the inner devices to {self.mtu_bytes}"


Step = (
    PutIface
    | PutOwner
    | NoteHostFlows
    | Acquaint
    | DeleteIface
    | Attach
    | GoAhead
    | Detach
    | DestroySockets
    | EndPastProxy
    | PutPod
    | DeletePod
    | PutHostAddress
    | DeleteHostAddress
    | SetInnerMtu
)


def concerns(step: Step) -> int | None:
    """The interface whose pod a step is for; None: the node itself."""
    match step:
        case PutHostAddress() | DeleteHostAddress() | SetInnerMtu() | NoteHostFlows():
            return None
        case PutPod(_, entry):
            return entry.ifindex
        case _:
            return step.ifindex


def plan(desired: Desired, observed: Observed) -> tuple[Step, ...]:
    """The steps, in order; each may be repeated. Empty when nothing differs.

    A pod whose interface is gone is one that goes, whether or not it is still desired.
    """
    gone = {pod.ifindex for pod in missing(desired, observed)}
    present = Desired(tuple(p for p in desired.pods if p.ifindex not in gone), desired.host_addresses)
    inner = tuple(_inner_mtu(present, observed))
    is_growing = any(step.mtu_bytes > observed.inner_mtu_bytes for step in inner)
    return (
        # New addresses of the node first: a probe from one must not meet a pod that does not know it.
        *_host_addresses(present, observed),
        # Room before there are packets that need it; less of it once nobody does.
        *(inner if is_growing else ()),
        # Appearing before going: an address that changes hands is never without an owner.
        *(step for pod in present.pods for step in _appear(pod, observed)),
        *_go(present, observed),
        *_left_over(present, observed),
        *(() if is_growing or not observed.is_whole else inner),
    )


def closing(
    ifindexes: Iterable[int],
    running: Mapping[int, Collection[IP]],
    owners: Mapping[int, str],
    *,
    is_outward_only: bool = False,
    learnt: Collection[int] = (),
    learnt_until_s: int = 0,
) -> tuple[Step, ...]:
    """Lets nothing through these interfaces, before anything is known of what is behind them but whose they are.

    What the pods send first: until then it may leave as it is. Not so of those that ran in clear before (`running`,
    with addresses where they are known): there it matters that no answer to the node is dropped whose question was
    not seen to leave.

    `is_outward_only`: of those that are fresh only what the pods send is stopped, answers among it; the rest is to
    follow at once. The kernel takes a moment for each program, and a start may wait for this.

    `learnt`: of the running those that stay as they are until they are captured, which is to follow at once: a SYN
    that is dropped costs its sender a second. What begins meanwhile is noted, as what is open then will be. At
    `learnt_until_s` (CLOCK_BOOTTIME) the programs close those that are not captured, whoever lives then.
    """
    open_still = IfaceEntry(Flag.LEARN, NO_ADDRESS, NO_ADDRESS, learnt_until_s=learnt_until_s)
    fresh = [number for number in ifindexes if number not in running]
    known = tuple((address, number) for number in running for address in running[number])
    outward, inward = POD_PROGRAMS
    return (
        *(step for number in fresh for step in (PutIface(number, CLOSED), Attach(number, outward))),
        *(Attach(number, inward) for number in fresh if not is_outward_only),
        *(
            step
            for number in running
            for step in (PutIface(number, open_still if number in learnt else CLOSED), Attach(number, inward))
        ),
        *((NoteHostFlows(known),) if known else ()),
        *(Attach(number, outward) for number in running),
        # After what matters: until then it is nobody's, and closed.
        *(PutOwner(number, text) for number, text in owners.items() if text),
    )


def left_learnt(ifaces: Mapping[int, IfaceEntry], failed: Collection[int | None]) -> tuple[PutIface, ...]:
    """Closes those whose capture failed while they were learnt: nothing else would before their time is over."""
    return tuple(
        PutIface(at, CLOSED) for at in sorted(ifaces) if at in failed and Flag.LEARN in ifaces[at].flags
    )


def missing(desired: Desired, observed: Observed) -> tuple[DesiredPod, ...]:
    """Desired pods whose interface does not exist (any more)."""
    return tuple(pod for pod in desired.pods if pod.ifindex not in observed.links)


def _host_addresses(desired: Desired, observed: Observed) -> Iterator[Step]:
    for address in _sorted(desired.host_addresses - observed.host_addresses):
        yield PutHostAddress(address)
    for address in _sorted(observed.host_addresses - desired.host_addresses):
        yield DeleteHostAddress(address)


def _appear(pod: DesiredPod, observed: Observed) -> Iterator[Step]:
    wanted, known = entries_of(pod, observed.links[pod.ifindex]), observed.ifaces.get(pod.ifindex)
    entry = wanted.iface
    past = []
    if known is not None and Flag.BYPASS in known.flags & ~entry.flags and Flag.ENROLLED in entry.flags:
        past = [EndPastProxy(pod.ifindex, known.addresses)]
    yield from past
    # One that is open still is answered by the proxy from its first captured packet on: its addresses come first.
    is_learnt = known is not None and Flag.LEARN in known.flags
    if known != entry and not is_learnt:
        yield PutIface(pod.ifindex, entry)
    # Again: those that began meanwhile. What their pod sends is dropped until they end, but for resets.
    yield from past
    for program in POD_PROGRAMS:
        if (pod.ifindex, program) not in observed.attached:
            yield Attach(pod.ifindex, program)
        elif (pod.ifindex, program) in observed.behind:
            yield GoAhead(pod.ifindex, program)
    for address, pod_entry in wanted.pods:
        found = observed.pods.get(address)
        if found == pod_entry:
            continue
        if found is not None and found.ifindex != pod.ifindex:
            yield DestroySockets(frozenset({address}), pod.ifindex)
        yield PutPod(address, pod_entry)
    if is_learnt:
        yield PutIface(pod.ifindex, entry)
    if pod.owner and observed.owners.get(pod.ifindex, "") != pod.owner:
        yield PutOwner(pod.ifindex, pod.owner)
    if pod.bridge is not None and (known is None or known.bridge_ifindex != pod.bridge.ifindex):
        # Last: whoever is not known yet is asked for.
        yield Acquaint(pod.ifindex)


def _inner_mtu(desired: Desired, observed: Observed) -> Iterator[SetInnerMtu]:
    """The MTU of the largest pod: the proxy's stack announces what fits it and believes that peers do.

    Not more: who announces far more than comes has its receive window grow late, which costs a transfer over a long
    path a round trip or two. Pods with less have it lowered in each SYN.
    """
    largest = max((entries_of(pod, observed.links[pod.ifindex]).mtu_bytes for pod in desired.pods), default=0)
    wanted = max(largest or DEFAULT_MTU_BYTES, LEAST_MTU_BYTES)
    found = observed.inner_mtu_bytes
    if found and found != wanted and (largest or observed.is_whole):
        yield SetInnerMtu(wanted)


def _go(desired: Desired, observed: Observed) -> Iterator[Step]:
    """Interfaces that are captured no longer, and addresses that an interface has no longer."""
    kept = {pod.ifindex for pod in desired.pods}
    claimed = {address for pod in desired.pods for address in pod.addresses}
    freed: dict[int, dict[IP, PodEntry]] = {ifindex: {} for ifindex in observed.ifaces.keys() - kept}
    for address, entry in observed.pods.items():
        if address not in claimed:
            freed.setdefault(entry.ifindex, {})[address] = entry
    # One after the other for all of them, so that the sockets of all are looked through once.
    for ifindex in sorted(freed.keys() - kept):
        yield from _drain(ifindex, freed[ifindex], observed)
    for ifindex in sorted(freed):
        if freed[ifindex]:
            yield DestroySockets(frozenset(freed[ifindex]), ifindex)
    for ifindex in sorted(freed):
        gone = freed[ifindex]
        for address in _sorted(gone):
            yield DeletePod(address, ifindex)
        if ifindex not in kept and ifindex in observed.ifaces:
            yield DeleteIface(ifindex)


def _drain(ifindex: int, addresses: dict[IP, PodEntry], observed: Observed) -> Iterator[Step]:
    """While it drains, what the proxy still sends (resets) leaves; nothing new is captured."""
    if ifindex not in observed.links:
        return
    entry = observed.ifaces.get(ifindex)
    if entry is not None and entry.flags != Flag.DRAIN:
        yield PutIface(ifindex, replace(entry, flags=Flag.DRAIN))
    for address in _sorted(addresses):
        queued = addresses[address].flags & Flag.QUEUED
        if addresses[address].flags != Flag.DRAIN | queued:
            yield PutPod(address, replace(addresses[address], flags=Flag.DRAIN | queued))


def _left_over(desired: Desired, observed: Observed) -> Iterator[Step]:
    """Programs on interfaces that are not captured, and links whose interface is gone."""
    kept = {pod.ifindex for pod in desired.pods}
    ours = observed.attached | observed.stale
    for ifindex, program in sorted(place for place in ours if place[0] not in kept):
        yield Detach(ifindex, program)


def _sorted(addresses: frozenset[IP] | dict[IP, PodEntry] | set[IP]) -> list[IP]:
    return sorted(addresses, key=address_key)
