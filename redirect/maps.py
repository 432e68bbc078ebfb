"""The pinned maps with their types: what the writer puts in, and what `ztun maps` reads.

One open file descriptor for each map of one generation. A full map is reported by name. Order of writes is
`plan`'s business, the form of an entry `layout`'s.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from redirect import sys_bpf
from redirect.conf import Conf
from redirect.errors import LayoutMismatch, MapFull
from redirect.layout import (
    IP,
    MAPS,
    NO_ADDRESS,
    OWNERS_MAX,
    REASONS,
    SLOTS,
    FlowKey,
    HostFlow,
    IfaceEntry,
    Neighbour,
    NeighbourKey,
    Owner,
    PodEntry,
    address_key,
    address_of,
)
from redirect.limits import CaptureCount, Member, PodRates, Stranger
from redirect.opening import Opening
from redirect.trace_entries import TraceFilter
from redirect.words import Words

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_ONLY = _U32.pack(0)
_ADDRESS_BYTES = len(NO_ADDRESS)


class Maps:
    """The open maps of a generation. Close it, or use it in a `with`."""

    def __init__(self, directory: Path) -> None:
        """Raises FileNotFoundError for a map that is not pinned, LayoutMismatch for one of another size."""
        self._fds: dict[str, int] = {}
        self._pods = Words(_pod_row)
        self._ifaces = Words(_iface_row)
        self._owners = Words(_owner_row)
        self._host_addresses = Words(_host_address_row)
        self.written_conf: Conf | None = None
        """What this object has put into `conf`; None: nothing yet."""
        try:
            for name in MAPS:
                self._fds[name] = sys_bpf.obj_get(directory / f"map_{name}")
                check_shape(self._fds[name], name)
        except BaseException:
            self.close()
            raise

    @property
    def fds(self) -> Mapping[str, int]:
        """The descriptor of each map, by name; they stay this object's."""
        return self._fds

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def __enter__(self) -> Maps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # pods, ifaces, hostips: what is captured

    def pods(self) -> dict[IP, PodEntry]:
        return dict(self._pods.rows(self._raw("pods")))

    def pod(self, address: IP) -> PodEntry | None:
        raw = self._lookup("pods", address_key(address))
        return None if raw is None else PodEntry.decode(raw)

    def put_pod(self, address: IP, entry: PodEntry) -> None:
        self._put("pods", address_key(address), entry.encode())

    def delete_pod(self, address: IP) -> bool:
        return sys_bpf.map_delete(self._fds["pods"], address_key(address))

    def ifaces(self) -> dict[int, IfaceEntry]:
        return dict(self._ifaces.rows(self._raw("ifaces")))

    def put_iface(self, ifindex: int, entry: IfaceEntry) -> None:
        self._put("ifaces", _U32.pack(ifindex), entry.encode())

    def iface(self, ifindex: int) -> IfaceEntry | None:
        raw = self._lookup("ifaces", _U32.pack(ifindex))
        return None if raw is None else IfaceEntry.decode(raw)

    def delete_iface(self, ifindex: int) -> bool:
        # The next interface of this number begins at zero, and knows nobody.
        sys_bpf.map_delete(self._fds["captures"], _U32.pack(ifindex))
        sys_bpf.map_delete(self._fds["rates"], _U32.pack(ifindex))
        sys_bpf.map_delete(self._fds["owners"], _U32.pack(ifindex))
        self.delete_opening(ifindex)
        # What begins with its number: of a bridge with hundreds of pods there are thousands of others.
        number = _U32.pack(ifindex)
        for raw in [raw for raw, _ in self._items("neighbours") if raw.startswith(number)]:
            sys_bpf.map_delete(self._fds["neighbours"], raw)
        return sys_bpf.map_delete(self._fds["ifaces"], _U32.pack(ifindex))

    def captures(self) -> dict[int, CaptureCount]:
        """New connections handed to the proxy, by ifindex of the pod."""
        return {_U32.unpack(key)[0]: CaptureCount.decode(value) for key, value in self._items("captures")}

    def owners(self) -> dict[int, str]:
        """The notes of whoever captured interfaces, by ifindex."""
        return dict(self._owners.rows(self._raw("owners")))

    def owner(self, ifindex: int) -> str:
        """The note of whoever captured an interface; empty: none."""
        raw = self._lookup("owners", _U32.pack(ifindex))
        return "" if raw is None else Owner.decode(raw).text

    def put_owner(self, ifindex: int, text: str) -> None:
        self._put("owners", _U32.pack(ifindex), Owner(text).encode())

    # openings, open_until: pods whose connections go past the proxy for a while

    def openings(self) -> dict[int, Opening]:
        """Those that are over as well, by ifindex; `OF_NODE`: of every pod."""
        return {_U32.unpack(key)[0]: Opening.decode(value) for key, value in self._items("openings")}

    def put_opening(self, ifindex: int, opening: Opening) -> None:
        self._put("openings", _U32.pack(ifindex), opening.encode())

    def delete_opening(self, ifindex: int) -> bool:
        return sys_bpf.map_delete(self._fds["openings"], _U32.pack(ifindex))

    def open_until_ns(self) -> int:
        """When the last of them is over, as the programs are told; 0: there is none."""
        return int(_U64.unpack(self._lookup("open_until", _ONLY) or bytes(8))[0])

    def put_open_until(self, until_ns: int) -> None:
        self._put("open_until", _ONLY, _U64.pack(until_ns))

    def host_addresses(self) -> frozenset[IP]:
        return frozenset(self._host_addresses.rows(self._raw("hostips")))

    def put_host_address(self, address: IP) -> None:
        self._put("hostips", address_key(address), _U32.pack(1))

    def delete_host_address(self, address: IP) -> bool:
        return sys_bpf.map_delete(self._fds["hostips"], address_key(address))

    # neighbours, wanted: who is on the links of pods on bridges

    def neighbours(self) -> dict[NeighbourKey, Neighbour]:
        return {NeighbourKey.decode(k): Neighbour.decode(v) for k, v in self._items("neighbours")}

    def neighbour(self, key: NeighbourKey) -> Neighbour | None:
        raw = self._lookup("neighbours", key.encode())
        return None if raw is None else Neighbour.decode(raw)

    def put_neighbour(self, key: NeighbourKey, neighbour: Neighbour) -> None:
        self._put("neighbours", key.encode(), neighbour.encode())

    def delete_neighbour(self, key: NeighbourKey) -> bool:
        return sys_bpf.map_delete(self._fds["neighbours"], key.encode())

    def wanted(self) -> list[NeighbourKey]:
        """Neighbours that the programs miss."""
        return self._link_keys("wanted")

    def take_wanted(self) -> list[NeighbourKey]:
        """The same, forgotten: it is the programs' to say so again."""
        found = self.wanted()
        for key in found:
            sys_bpf.map_delete(self._fds["wanted"], key.encode())
        return found

    # conf, socks, passthru, stats

    def conf(self) -> Conf:
        return Conf.decode(self._lookup("conf", _ONLY) or bytes(Conf.FORMAT.size))

    @property
    def settings(self) -> Conf:
        """What `conf` should have: what was put there, or else what it has."""
        return self.written_conf or self.conf()

    def put_conf(self, conf: Conf) -> None:
        self._put("conf", _ONLY, conf.encode())
        self.written_conf = conf

    def let_host(self, group: int) -> None:
        """Whose connections from the node pass, as `host_senders` has it; the rest of `conf` as it is."""
        self.put_conf(replace(self.settings, host_cgroup=group))

    def put_listener(self, slot: int, fd: int) -> None:
        """The listening socket of a slot. It leaves the map by itself when its last holder closes it."""
        self._put("socks", _U32.pack(slot), _U64.pack(fd))

    def delete_listener(self, slot: int) -> None:
        self._empty("socks", slot)

    def slots(self) -> tuple[bool, ...]:
        """Whether each slot has a listener, in the order of their numbers."""
        return tuple(self._lookup("socks", _U32.pack(slot)) is not None for slot in sorted(SLOTS.values()))

    # takers, turns: who gets a connection; rings: SYNs that are held; rates: how fast pods are;
    # strangers, members: SYNs that wait

    def put_taker(self, slot: int, owner: int, fd: int) -> None:
        """The listening socket of an owner's share of new connections, as `put_listener`."""
        self._put("takers", _U32.pack(slot * OWNERS_MAX + owner), _U64.pack(fd))

    def delete_taker(self, slot: int, owner: int) -> None:
        self._empty("takers", slot * OWNERS_MAX + owner)

    def takers(self) -> list[tuple[int, int]]:
        """Slot and owner of those that are there."""
        numbers = range(MAPS["takers"].max_entries)
        found = (number for number in numbers if self._lookup("takers", _U32.pack(number)) is not None)
        return [divmod(number, OWNERS_MAX) for number in found]

    def turns(self) -> dict[int, int]:
        """How many connections each counter has dealt out, where there was one."""
        found = ((_U32.unpack(key)[0], _U32.unpack(value)[0]) for key, value in self._items("turns"))
        return {index: number for index, number in found if number}

    def rings(self) -> dict[int, int]:
        """The kernel's number of each owner's ring."""
        found = ((owner, self._lookup("rings", _U32.pack(owner))) for owner in range(OWNERS_MAX))
        return {owner: int(_U32.unpack(raw)[0]) for owner, raw in found if raw is not None}

    def rates(self) -> dict[int, PodRates]:
        """What pods have used of the SYNs that may be held, and of the queries that are taken, of each, by ifindex."""
        return {_U32.unpack(key)[0]: PodRates.decode(value) for key, value in self._items("rates")}

    def strangers(self) -> dict[Stranger, int]:
        """Until when each has used up its rate (ns of the monotonic clock)."""
        return {Stranger.decode(key): _U64.unpack(value)[0] for key, value in self._items("strangers")}

    def members(self) -> dict[IP, int]:
        """Who has proven itself, and until when that counts (ns of the monotonic clock)."""
        found = (Member.decode(value) for _, value in self._items("members"))
        return {address_of(member.address): member.until_ns for member in found if member.until_ns}

    def put_passthrough(self, flows: Iterable[FlowKey], until_ns: int) -> None:
        """Flows that pass until then (ns of the monotonic clock; 0: until they end)."""
        for flow in flows:
            self._put("passthru", flow.encode(), _U64.pack(until_ns))

    def delete_passthrough(self, flow: FlowKey) -> bool:
        return sys_bpf.map_delete(self._fds["passthru"], flow.encode())

    def passthrough(self) -> Iterator[tuple[FlowKey, int]]:
        """Kept flows, and until when each passes (ns of the monotonic clock; 0: until it ends)."""
        for key, value in self._items("passthru"):
            yield FlowKey.decode(key), _U64.unpack(value)[0]

    def put_host_flows(self, flows: Mapping[FlowKey, HostFlow]) -> None:
        """Connections of the node, as `to_pod` notes those that it sees begin."""
        for key, flow in flows.items():
            self._put("hostflows", key.encode(), flow.encode())

    def host_flow(self, key: FlowKey) -> HostFlow | None:
        raw = sys_bpf.map_lookup(self._fds["hostflows"], key.encode(), HostFlow.FORMAT.size)
        return None if raw is None else HostFlow.decode(raw)

    def delete_host_flow(self, key: FlowKey) -> bool:
        return sys_bpf.map_delete(self._fds["hostflows"], key.encode())

    def host_flows(self) -> Iterator[tuple[FlowKey, HostFlow]]:
        for key, value in self._items("hostflows"):
            yield FlowKey.decode(key), HostFlow.decode(value)

    # tracing, trace_ring: packets that somebody is told of

    def trace_filter(self) -> TraceFilter:
        return TraceFilter.decode(self._lookup("tracing", _ONLY) or bytes(TraceFilter.FORMAT.size))

    def put_trace_filter(self, wanted: TraceFilter) -> None:
        self._put("tracing", _ONLY, wanted.encode())

    def trace_ring(self) -> int:
        """The kernel's number of the ring; 0: there is none."""
        return int(_U32.unpack(self._lookup("trace_ring", _ONLY) or bytes(4))[0])

    def put_trace_ring(self, fd: int) -> None:
        self._put("trace_ring", _ONLY, _U32.pack(fd))

    def delete_trace_ring(self) -> bool:
        return sys_bpf.map_delete(self._fds["trace_ring"], _ONLY)

    def stats(self) -> dict[tuple[str, str], int]:
        """Packets by (program, reason), over all CPUs, since the maps were made."""
        cpus = sys_bpf.possible_cpus()
        counted = {}
        for reason in REASONS:
            raw = sys_bpf.map_lookup(self._fds["stats"], _U32.pack(reason.index), 8 * cpus) or b""
            counted[reason.program, reason.name] = sum(value for (value,) in _U64.iter_unpack(raw))
        return counted

    def copy_from(self, directory: Path, names: Iterable[str]) -> None:
        """Entries of another generation, byte by byte. Raises LayoutMismatch where the sizes differ."""
        for name in names:
            fd = sys_bpf.obj_get(directory / f"map_{name}")
            try:
                check_shape(fd, name)
                shape = MAPS[name]
                for key, value in sys_bpf.map_items(fd, shape.key_bytes, shape.value_bytes):
                    self._put(name, key, value)
            finally:
                os.close(fd)

    def _link_keys(self, name: str) -> list[NeighbourKey]:
        return list(dict.fromkeys(NeighbourKey.decode(key) for key, _ in self._items(name)))

    def _items(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        shape = MAPS[name]
        # A dictionary: an entry that comes twice because others were deleted meanwhile is still one.
        return sys_bpf.map_items(self._fds[name], shape.key_bytes, shape.value_bytes)

    def _raw(self, name: str) -> list[bytes]:
        """Key and value of each entry, in one piece."""
        return [key + value for key, value in self._items(name)]

    def _lookup(self, name: str, key: bytes) -> bytes | None:
        return sys_bpf.map_lookup(self._fds[name], key, MAPS[name].value_bytes)

    def _empty(self, name: str, index: int) -> None:
        try:
            sys_bpf.map_delete(self._fds[name], _U32.pack(index))
        except OSError as error:
            # What a sockmap says of a slot that is empty already.
            if error.errno != errno.EINVAL:
                raise

    def _put(self, name: str, key: bytes, value: bytes) -> None:
        try:
            sys_bpf.map_update(self._fds[name], key, value)
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise MapFull(name, sys_bpf.map_info(self._fds[name]).max_entries) from error
            raise


def _pod_row(raw: bytes) -> tuple[IP, PodEntry]:
    return address_of(raw[:_ADDRESS_BYTES]), PodEntry.decode(raw[_ADDRESS_BYTES:])


def _iface_row(raw: bytes) -> tuple[int, IfaceEntry]:
    return _U32.unpack_from(raw)[0], IfaceEntry.decode(raw[_U32.size :])


def _owner_row(raw: bytes) -> tuple[int, str]:
    return _U32.unpack_from(raw)[0], Owner.decode(raw[_U32.size :]).text


def _host_address_row(raw: bytes) -> IP:
    return address_of(raw[:_ADDRESS_BYTES])


def check_shape(fd: int, name: str) -> None:
    """Raises LayoutMismatch unless keys and values have the sizes of this layout."""
    info, shape = sys_bpf.map_info(fd), MAPS[name]
    if (info.key_size, info.value_size) != (shape.key_bytes, shape.value_bytes):
        raise LayoutMismatch(
            f"map {name} in the kernel has keys of {info.key_size} and values of {info.value_size} bytes, this "
            f"version has {shape.key_bytes} and {shape.value_bytes}: un-enrol with the version that made it, "
            "or `ztun uninstall`"
        )
