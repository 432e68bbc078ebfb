"""The pinned maps of an instance as rows of named fields: where `ztun maps` meets `redirect`.

Nothing but this file of `ztun maps` knows `redirect`. It turns that package's errors into one line each: not
root, no pins, another layout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.cli.map_fields import FIELDS
from agent.cli.output import CliError, Row
from redirect import prefilter
from redirect.encapsulations import encapsulation_names
from redirect.errors import RedirectError
from redirect.layout import IP, LAYOUT_HASH, MAPS, NO_MAC, REASONS, SLOTS, Flag, FlowKey, address_of
from redirect.maps import Maps
from redirect.pins import Pins
from redirect.trace_entries import ANY_ADDRESS
from redirect.waiting import look

NAMES = tuple(MAPS)
DROPS = frozenset((reason.program, reason.name) for reason in REASONS if reason.is_drop)
"""Exits at which a packet ends, by program and reason."""
HOOKS = ("from_pod", "to_pod", "open")
Entries = Iterable[tuple[Row, Row]]


class PinnedMap(Protocol):
    """One map: its shape, and its entries as (key fields, value fields)."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    def entries(self) -> Entries: ...


@dataclass(frozen=True, slots=True)
class TypedMap:
    """A map of the current layout."""

    name: str
    read: Callable[[], Entries]

    @property
    def kind(self) -> str:
        return MAPS[self.name].kind

    @property
    def capacity(self) -> int:
        return MAPS[self.name].max_entries

    @property
    def fields(self) -> tuple[str, ...]:
        return FIELDS[self.name]

    def entries(self) -> Entries:
        """Raises CliError, of this map alone: what goes wrong where they are printed is another's."""
        try:
            yield from self.read()
        except (RedirectError, OSError) as error:
            raise CliError(f"map {self.name} cannot be read: {error}") from error


@contextmanager
def open_pinned(instance: str, run_dir: Path | None = None) -> Iterator[Mapping[str, PinnedMap]]:
    """Opens the maps of an instance for reading, by name. CliError when they cannot be read."""
    with open_maps(instance, run_dir) as maps:
        yield typed(maps)


def open_maps(instance: str, run_dir: Path | None = None) -> Maps:
    """The maps of an instance, opened: to be closed. CliError when that cannot be."""
    if os.geteuid() != 0:
        raise CliError("the pinned maps may be read by root only: run this as root")
    pins = Pins(instance, run_dir)
    generations = [path.name for path in pins.generations()] if pins.exists else []
    if not generations:
        raise CliError(
            f"instance {instance} has no pinned maps under {pins.root}: no agent's programs are here (uninstalled, or "
            "none has ever run)"
        )
    if LAYOUT_HASH not in generations:
        raise CliError(
            f"the maps of instance {instance} have layout {', '.join(generations)}, this version reads {LAYOUT_HASH}: "
            "use the version of ztun that made them"
        )
    try:
        return Maps(pins.generation)
    except (RedirectError, OSError) as error:
        raise CliError(f"the maps of instance {instance} cannot be read: {error}") from error


def typed(maps: Maps) -> Mapping[str, PinnedMap]:
    """Every map by name, decoded."""
    readers: dict[str, Callable[[], Entries]] = {
        "pods": lambda: pods(maps),
        "ifaces": lambda: ifaces(maps),
        "conf": lambda: conf(maps),
        "neighbours": lambda: neighbours(maps),
        "wanted": lambda: wanted(maps),
        "socks": lambda: socks(maps),
        "hostips": lambda: (({"address": ip}, {}) for ip in sorted(maps.host_addresses(), key=by_address)),
        "hostflows": lambda: host_flows(maps),
        "passthru": lambda: passthrough(maps),
        "captures": lambda: captures(maps),
        "openings": lambda: openings(maps),
        "open_until": lambda: (({"key": 0}, {"until_s": round(maps.open_until_ns() / 1e9, 3)}),),
        "rates": lambda: rates(maps),
        "strangers": lambda: strangers(maps),
        "members": lambda: members(maps),
        "prefiltered": lambda: prefiltered(maps),
        "denials": lambda: denials(maps),
        "rings": lambda: (({"owner": owner}, {"ring": number}) for owner, number in maps.rings().items()),
        "takers": lambda: takers(maps),
        "turns": lambda: (({"counter": index}, {"number": number}) for index, number in maps.turns().items()),
        "owners": lambda: owners(maps),
        "waiting": lambda: waiting(maps),
        "drafts": lambda: (),
        "seen": lambda: (),  # where packets of the kernel lie is nothing to show
        "tracing": lambda: tracing(maps),
        "trace_ring": lambda: (({"key": 0}, {"ring": ring}) for ring in (maps.trace_ring(),) if ring),
        "stats": lambda: stats(maps),
    }
    return {name: TypedMap(name, readers[name]) for name in MAPS}


def by_address(ip: IP) -> tuple[int, int]:
    """Order of addresses: IPv4 first, then by number."""
    return ip.version, int(ip)


def by_flow(key: FlowKey) -> tuple[int, ...]:
    source, destination = by_address(key.source), by_address(key.destination)
    return *source, key.sport, *destination, key.dport, key.hook


def pods(maps: Maps) -> Entries:
    for address, entry in sorted(maps.pods().items(), key=lambda item: by_address(item[0])):
        value = {"flags": flags(entry.flags), "ifindex": entry.ifindex}
        macs = {"pod_mac": entry.pod_mac.hex(":"), "hop_mac": entry.hop_mac.hex(":")}
        sizes = {"mtu_bytes": entry.mtu_bytes, "mss_bytes": entry.mss_bytes}
        yield {"address": address}, {**value, **sizes, **macs}


def ifaces(maps: Maps) -> Entries:
    for ifindex, entry in sorted(maps.ifaces().items()):
        mac = entry.mac.hex(":") if entry.mac != NO_MAC else ""
        addresses = list(entry.addresses)
        yield {"ifindex": ifindex}, {"flags": flags(entry.flags), "addresses": addresses, "mac": mac}


def owners(maps: Maps) -> Entries:
    for ifindex, text in sorted(maps.owners().items()):
        yield {"ifindex": ifindex}, {"owner": text}


def openings(maps: Maps) -> Entries:
    for ifindex, each in sorted(maps.openings().items()):
        times_s = {"until_s": round(each.until_ns / 1e9, 3), "since_s": round(each.since_ns / 1e9, 3)}
        yield {"ifindex": ifindex}, {**times_s, "who": each.who, "reason": each.reason}


def neighbours(maps: Maps) -> Entries:
    for key, value in sorted(
        maps.neighbours().items(), key=lambda item: (item[0].ifindex, *by_address(item[0].address))
    ):
        where = {"ifindex": key.ifindex, "address": key.address}
        is_permanent, is_used = value.is_permanent, value.is_used
        yield where, {"mac": value.mac.hex(":"), "is_permanent": is_permanent, "is_used": is_used}


def wanted(maps: Maps) -> Entries:
    for key in sorted(maps.wanted(), key=lambda key: (key.ifindex, *by_address(key.address))):
        yield {"ifindex": key.ifindex, "address": key.address}, {}


def conf(maps: Maps) -> Entries:
    value = maps.conf()
    yield (
        {"key": 0},
        {
            "pod_side_ifindex": value.pod_side_ifindex,
            "net_side_ifindex": value.net_side_ifindex,
            "pod_side_nsid": value.pod_side_nsid,
            "net_side_nsid": value.net_side_nsid,
            "net_side_mac": value.net_side_mac.hex(":"),
            "is_dns_open": value.is_dns_open,
            "owners": value.owners,
            "takers": value.takers,
            "is_plaintext_by_ports": value.is_plaintext_by_ports,
            "allowed_encapsulations": encapsulation_names(value.allowed_encapsulations),
            "stranger_every_ns": value.stranger_every_ns,
            "stranger_burst": value.stranger_burst,
            "host_cgroup": value.host_cgroup,
        },
    )


def socks(maps: Maps) -> Entries:
    filled = maps.slots()
    for name, slot in SLOTS.items():
        yield {"slot": slot}, {"listener": name, "filled": filled[slot]}


def takers(maps: Maps) -> Entries:
    names = {slot: name for name, slot in SLOTS.items()}
    for slot, owner in maps.takers():
        yield {"slot": slot, "owner": owner}, {"listener": names[slot]}


def rates(maps: Maps) -> Entries:
    for ifindex, used in sorted(maps.rates().items()):
        due_ns = {"outbound": used.outbound_due_ns, "inbound": used.inbound_due_ns, "dns": used.dns_due_ns}
        yield {"ifindex": ifindex}, {f"{what}_due_s": round(at_ns / 1e9, 3) for what, at_ns in due_ns.items()}


def strangers(maps: Maps) -> Entries:
    for who, due_ns in sorted(maps.strangers().items(), key=lambda item: (item[0].ifindex, item[0].address)):
        key = {"ifindex": who.ifindex, "address": address_of(who.address)}
        yield key, {"due_s": round(due_ns / 1e9, 3)}


def waiting(maps: Maps) -> Entries:
    """SYNs that came while nobody served."""
    found = ((FlowKey.decode(each.flow), each) for each in look(maps.fds["waiting"]))
    for flow, each in sorted(found, key=lambda item: by_flow(item[0])):
        yield (
            tuple_of(flow),
            {"hook": HOOKS[flow.hook], "ifindex": each.ifindex, "at_s": round(each.at_ns / 1e9, 3)},
        )


def members(maps: Maps) -> Entries:
    for address, until_ns in sorted(maps.members().items(), key=lambda item: by_address(item[0])):
        yield {"address": address}, {"until_s": round(until_ns / 1e9, 3)}


def prefiltered(maps: Maps) -> Entries:
    found = prefilter.prefiltered(maps.fds["prefiltered"])
    for address, value in sorted(found.items(), key=lambda item: by_address(item[0])):
        due_s = round(value.samples_due_ns / 1e9, 3)
        yield {"address": address}, {"ifindex": value.ifindex, "set": value.set, "samples_due_s": due_s}


def denials(maps: Maps) -> Entries:
    found = prefilter.denials(maps.fds["denials"])
    for key, value in sorted(found.items(), key=lambda item: (item[0].set, item[0].port, item[0].address)):
        which = {"set": key.set, "port": key.port or "others", "source": str(key.sources)}
        yield which, {"is_denied": value.is_denied, "packets": value.packets}


def host_flows(maps: Maps) -> Entries:
    for key, flow in sorted(maps.host_flows(), key=lambda item: by_flow(item[0])):
        yield tuple_of(key), {"hook": HOOKS[key.hook], "ifindex": flow.ifindex, "at_s": flow.at_s}


def passthrough(maps: Maps) -> Entries:
    for key, until_ns in sorted(maps.passthrough(), key=lambda item: by_flow(item[0])):
        yield tuple_of(key), {"hook": HOOKS[key.hook], "until_s": round(until_ns / 1e9, 3)}


def tuple_of(key: FlowKey) -> Row:
    return {"source": key.source, "sport": key.sport, "destination": key.destination, "dport": key.dport}


def captures(maps: Maps) -> Entries:
    for ifindex, counted in sorted(maps.captures().items()):
        yield {"ifindex": ifindex}, {"outbound": counted.outbound, "inbound": counted.inbound}


def tracing(maps: Maps) -> Entries:
    value = maps.trace_filter()
    ends = [
        end(value.own, value.own_port),
        end(value.own_too, value.own_port),
        end(value.far, value.far_port),
    ]
    told = {"ifindex": value.ifindex, "own": ends[:2], "far": ends[2], "is_ends_only": value.is_ends_only}
    yield {"key": 0}, {"until_s": round(value.until_ns / 1e9, 3), "lost": value.lost, **told}


def end(address: bytes, port: int) -> str:
    shown = "*" if address == ANY_ADDRESS else str(address_of(address))
    return f"{shown} {port or '*'}"


def stats(maps: Maps) -> Entries:
    for (program, reason), packets in maps.stats().items():
        if packets:
            yield {"program": program, "reason": reason}, {"packets": packets}


def flags(value: Flag) -> str:
    return "|".join(flag.name for flag in Flag if flag in value and flag.name) or "-"
