"""A link's neighbours as the kernel knows them, and how to have it ask for one (`ip neigh`).

In the calling thread's network namespace. Raw like `rtnetlink`: pods' namespaces are looked at often. Layout: struct
ndmsg of include/uapi/linux/neighbour.h.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from redirect import netlink
from redirect.layout import IP

RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTMGRP_NEIGH = 0x4
NDA_DST, NDA_LLADDR = 1, 2
NTF_USE = 1
NUD_NONE, NUD_PROBE, NUD_FAILED, NUD_PERMANENT = 0, 0x10, 0x20, 0x80
# REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT
NUD_VALID = 0x02 | 0x04 | 0x08 | NUD_PROBE | 0x40 | NUD_PERMANENT

_NEIGHBOUR = struct.Struct("=BxHiHBB")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class NeighbourRow:
    """One neighbour. `mac` is empty while nobody has answered; `state` is the kernel's NUD."""

    mac: bytes
    state: int

    @property
    def is_known(self) -> bool:
        return bool(self.state & NUD_VALID) and len(self.mac) == 6

    @property
    def is_permanent(self) -> bool:
        return bool(self.state & NUD_PERMANENT)


def macs() -> dict[IP, bytes]:
    """The neighbours of all links that are known. Raises OSError."""
    return {address: row.mac for (_, address), row in _rows().items() if row.is_known}


def known(ifindex: int) -> dict[IP, NeighbourRow]:
    """Every neighbour of a link, by address: `ip neigh show dev IF nud all`. Raises OSError."""
    return {address: row for (index, address), row in _rows().items() if index == ifindex}


def use(ifindex: int, address: IP) -> None:
    """As if a packet went there: the kernel asks unless it knows. Never for a permanent entry: it would end as such.

    `ip neigh replace ADDRESS dev IF use`
    """
    _change(ifindex, address, NUD_NONE, NTF_USE)


def verify(ifindex: int, address: IP) -> None:
    """Have the kernel ask a neighbour that it knows whether it is still there: `ip neigh change ... nud probe`."""
    _change(ifindex, address, NUD_PROBE, 0)


def resolve(ifindex: int, addresses: Collection[IP], patience_s: float) -> dict[IP, NeighbourRow]:
    """Those of the addresses that answer in time, asked for where the kernel does not know them."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as news:
        # Before the first look: no answer can come between.
        news.bind((0, RTMGRP_NEIGH))
        news.setblocking(False)
        end = time.monotonic() + patience_s
        asked: set[IP] = set()
        while True:
            rows = known(ifindex)
            answered = {ip: rows[ip] for ip in addresses if ip in rows and rows[ip].is_known}
            given_up = {ip for ip in asked if ip in rows and rows[ip].state & NUD_FAILED}
            for ip in set(addresses) - answered.keys() - asked:
                use(ifindex, ip)
                asked.add(ip)
            left_s = end - time.monotonic()
            if len(answered) + len(given_up) == len(set(addresses)) or left_s <= 0:
                return answered
            select.select([news], [], [], left_s)
            _drain(news)


def _rows() -> dict[tuple[int, IP], NeighbourRow]:
    found = {}
    for body in netlink.ask(RTM_GETNEIGH, _NEIGHBOUR.pack(0, 0, 0, 0, 0, 0), netlink.NLM_F_DUMP):
        _, _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
        told = netlink.attributes(body[_NEIGHBOUR.size :])
        if NDA_DST in told:
            found[index, ip_address(told[NDA_DST])] = NeighbourRow(told.get(NDA_LLADDR, b""), state)
    return found


def _change(ifindex: int, address: IP, state: int, flags: int) -> None:
    message = _NEIGHBOUR.pack(_FAMILIES[address.version], 0, ifindex, state, flags, 0)
    netlink.ask(
        RTM_NEWNEIGH,
        message + netlink.attribute(NDA_DST, address.packed),
        netlink.NLM_F_ACK | netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE,
    )


def _drain(news: socket.socket) -> None:
    while True:
        try:
            news.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            continue  # ENOBUFS: something was lost, so there is news
