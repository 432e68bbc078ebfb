"""Links and namespace ids as the kernel tells them, read raw: a node has hundreds of them and they are read often.

pyroute2 decodes every attribute of every link (150 us each); this reads those that tell whose a veth is and how
large its packets may be. In the calling thread's network namespace. Layouts: include/uapi/linux/rtnetlink.h,
if_link.h, net_namespace.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from redirect import netlink

RTM_NEWLINK, RTM_GETLINK, RTM_NEWNSID, RTM_GETNSID = 16, 18, 88, 90
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 6, 10, 18
IFLA_STATS64, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 23, 29, 37
IFLA_STATS = 7
IFLA_INFO_KIND = 1
IFLA_INFOS_THAT_RUN = (2, 3, 5)
"""IFLA_INFO_DATA, IFLA_INFO_XSTATS, IFLA_INFO_SLAVE_DATA: a bridge's timers, and those of its ports."""
_READ = frozenset(
    (
        *(
            IFLA_ADDRESS,
            IFLA_IFNAME,
            IFLA_MTU,
            IFLA_LINK,
            IFLA_QDISC,
            IFLA_MASTER,
            IFLA_LINKINFO,
            IFLA_STATS64,
        ),
        IFLA_LINK_NETNSID,
    )
)
RTEXT_FILTER_SKIP_STATS = 8
NETNSA_NSID, NETNSA_FD = 1, 3
IFF_NOARP, IFF_LOWER_UP = 0x80, 0x10000
NO_QUEUE = "noqueue"
DEFAULT_MTU_BYTES = 1500
"""Of a veth that nobody has set otherwise."""

_LINK = struct.Struct("=BxHiII")
_IFINDEX_AT = 4
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")
_U64 = struct.Struct("=Q")
_GENERAL = struct.Struct("=Bxxx")


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One interface. `peer` and `peer_nsid`: a veth's other end; no nsid: in the same namespace. `master`: its bridge.

    `qdisc`: kind of the one that what is sent goes through. `is_up`: packets can pass, both ends are up. `received`:
    packets that came in by it, 0 in lists. `has_arp`: neighbours are looked for.
    """

    ifindex: int
    ifname: str
    kind: str = ""
    peer: int = 0
    peer_nsid: int | None = None
    mtu_bytes: int = DEFAULT_MTU_BYTES
    qdisc: str = NO_QUEUE
    is_up: bool = False
    received: int = 0
    mac: bytes = bytes(6)
    has_arp: bool = True
    master: int = 0


def links() -> dict[int, LinkRow]:
    """Every interface by its index: `ip link show`. Raises OSError."""
    mask = netlink.attribute(IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_SKIP_STATS))
    bodies = netlink.ask(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + mask, netlink.NLM_F_DUMP)
    return _told.rows(bodies)


def few() -> list[LinkRow]:
    """The same of a namespace that is looked at once: nothing of it is remembered."""
    mask = netlink.attribute(IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_SKIP_STATS))
    return [
        _row(each) for each in netlink.ask(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + mask, netlink.NLM_F_DUMP)
    ]


def named(ifname: str) -> LinkRow | None:
    """One interface by its name, without its counter: `ip link show dev IFNAME`. Raises OSError."""
    return next((row for row in links().values() if row.ifname == ifname), None)


def link(ifindex: int) -> LinkRow | None:
    """One interface, with its counter: `ip -s link show dev IF`; None when there is none. Raises OSError."""
    try:
        (body,) = netlink.ask(RTM_GETLINK, _LINK.pack(0, 0, ifindex, 0, 0))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
    return _row(body)


def nsid(path: Path) -> int | None:
    """The number by which this namespace knows another; None: it has none. Raises OSError for a path that is none."""
    # A pipe in its place would be waited for without an end.
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        request = _GENERAL.pack(0) + netlink.attribute(NETNSA_FD, _U32.pack(namespace))
        (body,) = netlink.ask(RTM_GETNSID, request)
    finally:
        os.close(namespace)
    (found,) = _S32.unpack(netlink.attributes(body[_GENERAL.size :])[NETNSA_NSID])
    return found if found >= 0 else None


def _row(body: bytes) -> LinkRow:
    _, _, ifindex, flags, _ = _LINK.unpack_from(body)
    found = {
        kind: body[at:to] for kind, at, to in netlink.spans(body, _LINK.size, len(body)) if kind in _READ
    }
    info = netlink.attributes(found.get(IFLA_LINKINFO, b""))
    stats = found.get(IFLA_STATS64)
    return LinkRow(
        ifindex,
        netlink.text(found[IFLA_IFNAME]),
        netlink.text(info.get(IFLA_INFO_KIND, b"")),
        _U32.unpack(found[IFLA_LINK])[0] if IFLA_LINK in found else 0,
        _S32.unpack(found[IFLA_LINK_NETNSID])[0] if IFLA_LINK_NETNSID in found else None,
        _U32.unpack(found[IFLA_MTU])[0],
        netlink.text(found.get(IFLA_QDISC, b"")) or NO_QUEUE,
        bool(flags & IFF_LOWER_UP),
        _U64.unpack_from(stats)[0] if stats else 0,
        found.get(IFLA_ADDRESS, bytes(6)),
        not flags & IFF_NOARP,
        _U32.unpack(found[IFLA_MASTER])[0] if IFLA_MASTER in found else 0,
    )


class _Told:
    """One interface as it was listed: what of its words stays the same while nothing but counters and timers runs."""

    __slots__ = ("_body", "_steady", "row")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._steady: tuple[tuple[int, int], ...] = ()
        self.row = replace(_row(body), received=0)

    def is_still(self, body: bytes) -> bool:
        last = self._body
        if body == last:
            return True
        if len(body) != len(last):
            return False
        # Not before it is needed: most are listed once, or are the same to the last byte.
        self._steady = self._steady or tuple(_steady(last))
        if any(body[start:end] != last[start:end] for start, end in self._steady):
            return False
        self._body = body
        return True


def _steady(body: bytes) -> Iterator[tuple[int, int]]:
    """What lies between the values that run: of a node's hundreds of interfaces each has some."""
    begun = 0
    for kind, start, end in netlink.spans(body, _LINK.size, len(body)):
        if kind in (IFLA_STATS, IFLA_STATS64):
            running = [(start, end)]
        elif kind == IFLA_LINKINFO:
            inner = netlink.spans(body, start, end)
            running = [(at, to) for each, at, to in inner if each in IFLA_INFOS_THAT_RUN]
        else:
            continue
        for at, to in running:
            yield begun, at
            begun = to
    yield begun, len(body)


class _Listed:
    """Rows of lists. Namespaces share it: one that has other interfaces under the same numbers is read anew."""

    def __init__(self, slack: int = 512) -> None:
        self._slack = slack
        self._longest = 0
        self._known: dict[int, _Told] = {}

    def rows(self, bodies: Sequence[bytes]) -> dict[int, LinkRow]:
        known, found = self._known, {}
        for body in bodies:
            (ifindex,) = _U32.unpack_from(body, _IFINDEX_AT)
            told = known.get(ifindex)
            if told is None or not told.is_still(body):
                told = known[ifindex] = _Told(body)
            found[ifindex] = told.row
        self._longest = max(self._longest, len(bodies))
        if len(known) > 2 * self._longest + self._slack:
            self._known = {ifindex: known[ifindex] for ifindex in found}
        return found


_told = _Listed()
