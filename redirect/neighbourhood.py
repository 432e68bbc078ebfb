"""Keeps `neighbours` true: what the pods know, what the programs miss, and whether who is used is still there.

The programs learn from the ARP and neighbour discovery that reach a pod. What they cannot see is done here, in the
pod's own namespace, by its own kernel: entries from before enrolment, asking for a neighbour that only the proxy
speaks to, and asking again, because traffic that is captured tells the pod's kernel nothing about who is there.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from redirect import neighbours, rtnetlink
from redirect.layout import IP, Neighbour, NeighbourKey
from redirect.locate import by_nsid
from redirect.maps import Maps
from redirect.neighbours import NeighbourRow
from redirect.netns import entered

log = logging.getLogger(__name__)


class Neighbourhood:
    """The neighbours of captured pods on bridges. Call it in the node's network namespace."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._paths: dict[int | None, Path] = {}

    def acquaint(self, ifindex: int) -> None:
        """Put in what the pod behind a host veth knows already. Raises OSError."""
        with self._inside(ifindex) as inner:
            if inner is not None:
                self._put_known(ifindex, neighbours.known(inner))

    def answer(self) -> int:
        """Have the pods' kernels ask for what the programs miss; for how many. Answers arrive by the programs.

        Raises OSError.
        """
        asked = self._maps.take_wanted()
        for ifindex, addresses in _by_interface(asked).items():
            with self._inside(ifindex) as inner:
                if inner is not None:
                    self._ask(ifindex, inner, addresses)
        return len(asked)

    def verify(self) -> int:
        """Have the neighbours asked that frames went to since the last time; how many. Raises OSError.

        One that did not answer the last time is forgotten and looked for anew.
        """
        known = self._maps.neighbours()
        used = [key for key, neighbour in known.items() if neighbour.is_used]
        for ifindex, addresses in _by_interface(used).items():
            with self._inside(ifindex) as inner:
                if inner is not None:
                    self._verify(ifindex, inner, addresses)
        return len(used)

    def _ask(self, ifindex: int, inner: int, addresses: Iterable[IP]) -> None:
        rows = neighbours.known(inner)
        self._put_known(ifindex, {ip: rows[ip] for ip in addresses if ip in rows})
        for ip in addresses:
            if ip not in rows or not rows[ip].is_known:
                neighbours.use(inner, ip)

    def _verify(self, ifindex: int, inner: int, addresses: Iterable[IP]) -> None:
        rows = neighbours.known(inner)
        for ip in addresses:
            key, row = NeighbourKey(ifindex, ip), rows.get(ip)
            entry = self._maps.neighbour(key)
            if entry is None:
                continue
            if row is not None and row.is_known:
                entry = Neighbour(row.mac, row.is_permanent)
            self._maps.put_neighbour(key, replace(entry, is_used=False))
            if row is None:
                neighbours.use(inner, ip)
            elif not row.is_known:
                self._maps.delete_neighbour(key)
                neighbours.use(inner, ip)
            elif not row.is_permanent:
                neighbours.verify(inner, ip)

    def _put_known(self, ifindex: int, rows: dict[IP, NeighbourRow]) -> None:
        entry = self._maps.iface(ifindex)
        if entry is None:
            return
        # The node itself is found by its bridge, whatever MAC that has.
        skipped = self._maps.host_addresses() - {entry.gateway(4), entry.gateway(6)}
        for ip, row in rows.items():
            if row.is_known and ip not in skipped:
                self._maps.put_neighbour(NeighbourKey(ifindex, ip), Neighbour(row.mac, row.is_permanent))

    @contextmanager
    def _inside(self, ifindex: int) -> Iterator[int | None]:
        """In the namespace of a pod: the index of its end of the veth. None: no name leads there any more."""
        link = rtnetlink.link(ifindex)
        path = (
            self._path(ifindex, link.peer_nsid) if link is not None and link.peer_nsid is not None else None
        )
        if link is None or path is None:
            yield None
            return
        with entered(path):
            yield link.peer

    def _path(self, ifindex: int, nsid: int) -> Path | None:
        known = self._paths.get(nsid)
        if known is None or not _leads_to(known, nsid):
            # All at once: where one is new there may be hundreds.
            self._paths = by_nsid()
            known = self._paths.get(nsid)
        if known is None:
            log.warning(
                "neighbours of interface %d cannot be asked for: no name leads to the pod's namespace",
                ifindex,
            )
        return known


def _leads_to(path: Path, nsid: int) -> bool:
    try:
        return rtnetlink.nsid(path) == nsid
    except OSError:
        return False


def _by_interface(keys: Iterable[NeighbourKey]) -> dict[int, list[IP]]:
    found: defaultdict[int, list[IP]] = defaultdict(list)
    for key in keys:
        found[key.ifindex].append(key.address)
    return found
