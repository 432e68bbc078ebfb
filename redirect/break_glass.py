"""Break glass: opens captured pods for a while, with nothing but the pinned maps. Needs no agent, no lock, no compiler.

An opening is an entry of `openings` that the programs hold against the clock with every packet, so it ends whoever
lives then. It lies beside what captures the pod, which a reconciliation may write meanwhile: neither changes the other.
What is written here is written so that several who do so at once end with the same. Runs in the node's network
namespace; no lock, because whoever holds it may be stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from redirect import locate, netns, rtnetlink, sock_diag
from redirect.errors import PodNotFound, RedirectError
from redirect.layout import HOOK_OPEN, IP, NO_ADDRESS, FlowKey, parse_ip
from redirect.maps import Maps
from redirect.opened import Opened, Target
from redirect.opening import OF_NODE, Opening, now_ns
from redirect.rtnetlink import LinkRow
from redirect.sock_diag import TcpSocket

_TCP = 6


def targets(maps: Maps, links: Mapping[int, LinkRow] | None = None) -> dict[int, Target]:
    """Every captured interface, by ifindex. `links`: of the node, where the thread is in another network namespace."""
    links = rtnetlink.links() if links is None else links
    owners = maps.owners()
    return {
        ifindex: Target(
            ifindex,
            links[ifindex].ifname if ifindex in links else "",
            owners.get(ifindex, "").partition(" ")[0],
            entry,
        )
        for ifindex, entry in sorted(maps.ifaces().items())
    }


def find(among: Mapping[int, Target], text: str) -> Target:
    """The one of a pod: `NAMESPACE/NAME`, one of its addresses, or its interface here. Raises PodNotFound."""
    try:
        address: IP | None = parse_ip(text)
    except ValueError:
        address = None
    for target in among.values():
        if text in (target.pod, target.ifname) or (address is not None and address in target.addresses):
            return target
    known = ", ".join(target.name for target in among.values()) or "none"
    raise PodNotFound(
        f"no captured pod {text}: it is captured by nothing, or has another name; there are: {known}"
    )


def opened(maps: Maps) -> tuple[Opened, ...]:
    """What is open now, the node first."""
    at_ns = now_ns()
    last = {ifindex: each for ifindex, each in maps.openings().items() if each.is_on(at_ns)}
    # Only where there is one: a node may have a thousand pods, and this is asked every second.
    known = targets(maps) if last else {}
    return tuple(
        Opened(known.get(ifindex), each, (each.until_ns - at_ns) / 1e9)
        for ifindex, each in sorted(last.items())
        if ifindex == OF_NODE or _is_of(each, known.get(ifindex))
    )


def looked_at(maps: Maps) -> tuple[Opened, ...]:
    """`opened`, for whoever looks again and again: once nothing is, the programs look no longer."""
    found = opened(maps)
    if not found and maps.open_until_ns():
        settle(maps)
    return found


def begin(maps: Maps, which: Target | None, for_s: float, who: str, reason: str) -> Opening:
    """Opens a pod, or with None all of the node, for so long from now on; one that is open ends then instead.

    Raises RedirectError for a pod without an address, ValueError for a note that has no room, MapFull.
    """
    if which is not None and not which.addresses:
        raise RedirectError(
            f"{which.name} is closed off and has no address yet, so what is its own cannot be told: "
            "`ztun eject` takes it out"
        )
    ifindex = OF_NODE if which is None else which.ifindex
    at_ns = now_ns()
    known = maps.openings().get(ifindex)
    is_on = known is not None and known.is_on(at_ns) and (which is None or _is_of(known, which))
    # One that goes on is the same opening: its connections stay.
    since_ns = known.since_ns if known is not None and is_on else at_ns
    addresses = (NO_ADDRESS, NO_ADDRESS) if which is None else (which.entry.addr4, which.entry.addr6)
    made = Opening(at_ns + int(for_s * 1e9), since_ns, *addresses, who, reason)
    maps.put_opening(ifindex, made)
    settle(maps)
    return made


def end(maps: Maps, which: Target | None) -> bool:
    """Closes what `begin` opened, its connections reset at both ends; whether it was open."""
    ifindex = OF_NODE if which is None else which.ifindex
    known = maps.openings().get(ifindex)
    if known is None or not known.is_on(now_ns()):
        return False
    # While their packets still pass: the resets go where the connections do.
    cut(maps, targets(maps).values() if which is None else (which,))
    maps.delete_opening(ifindex)
    settle(maps)
    return True


def settle(maps: Maps) -> None:
    """Has the programs look at `openings` for as long as there is one, and no longer."""
    while True:
        wanted = _latest(maps)
        maps.put_open_until(wanted)
        # Somebody else may have made one meanwhile, and have written before this did.
        if _latest(maps) == wanted:
            return


def cut(maps: Maps, whose: Iterable[Target]) -> int:
    """Destroys the pods' sockets of connections that began while they were open; how many.

    None where a pod's namespace is not found, or the kernel destroys no sockets: there each end is reset when it sends.
    Raises OSError.
    """
    number = 0
    for target in whose:
        namespace = locate.namespace_behind(target.ifindex)
        if namespace is not None:
            with netns.entered(namespace):
                done = sock_diag.destroy_where(partial(_is_noted, maps, target.addresses))
                number += sum(done.values())
    return number


def reset_at_proxy(namespaces: Iterable[Path], whose: Iterable[Target]) -> int:
    """Destroys the proxy's sockets of pods, whoever holds them: their other ends are reset, and connect anew; how many.

    Raises OSError.
    """
    addresses = frozenset(address for target in whose for address in target.addresses)
    number = 0
    for namespace in namespaces:
        if addresses and netns.is_namespace(namespace):
            with netns.entered(namespace):
                number += sock_diag.destroy(addresses)
    return number


def _latest(maps: Maps) -> int:
    """The last end of what is open; 0: nothing is."""
    at_ns = now_ns()
    return max((each.until_ns for each in maps.openings().values() if each.is_on(at_ns)), default=0)


def _is_of(opening: Opening, target: Target | None) -> bool:
    return target is not None and (opening.addr4, opening.addr6) == (target.entry.addr4, target.entry.addr6)


def _is_noted(maps: Maps, addresses: Collection[IP], socket: TcpSocket) -> bool:
    if socket.local not in addresses:
        return False
    flow = FlowKey(socket.local, socket.remote, socket.local_port, socket.remote_port, _TCP, HOOK_OPEN)
    return maps.host_flow(flow) is not None
