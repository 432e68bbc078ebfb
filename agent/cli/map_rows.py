"""Entries of a map as rows that can be printed, compared and counted. Pure: maps come as `PinnedMap`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from agent.cli.output import Row, cell, plain
from agent.cli.pinned import DROPS, PinnedMap

Fields = dict[str, object]


def pairs(source: PinnedMap) -> Iterator[tuple[Fields, Fields]]:
    """Entries with plain values; a value field that is called like a key field does not hide it."""
    for key, value in source.entries():
        shown: Fields = {name: plain(item) for name, item in key.items()}
        yield shown, {name: plain(item) for name, item in value.items() if name not in shown}


def rows(source: PinnedMap, owners: Mapping[object, str]) -> list[Row]:
    return [wide(key | value, owners) for key, value in pairs(source)]


def fields(source: PinnedMap, owners: Mapping[object, str]) -> tuple[str, ...]:
    """Those of its rows, whether it has any or not."""
    return (*source.fields, *(["pod"] if owners and "ifindex" in source.fields else []))


def wide(row: Fields, owners: Mapping[object, str]) -> Fields:
    return row | {"pod": owners.get(row["ifindex"], "")} if owners and "ifindex" in row else row


def matches(key: Row, wanted: str) -> bool:
    texts = {cell(item) for item in key.values()} | {" ".join(cell(item) for item in key.values())}
    return canonical(wanted) in texts


def canonical(text: str) -> str:
    """An address as the table prints it, anything else as it is."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


def changes(source: PinnedMap) -> Iterator[list[tuple[str, Fields]]]:
    """What differs from the look before; at first, every entry."""
    before: dict[str, tuple[Fields, Fields]] = {}
    while True:
        now = {" ".join(map(cell, key.values())): (key, value) for key, value in pairs(source)}
        came = [("+", key | value) for name, (key, value) in now.items() if name not in before]
        went = [("-", key | value) for name, (key, value) in before.items() if name not in now]
        changed = [
            ("~", key | value)
            for name, (key, value) in now.items()
            if name in before and before[name][1] != value
        ]
        yield came + changed + went
        before = now


def owners(pinned: Mapping[str, PinnedMap]) -> dict[object, str]:
    """Whose each captured interface is, as noted by whoever captured it."""
    source = pinned.get("owners")
    pairs = source.entries() if source is not None else ()
    return {key["ifindex"]: str(value["owner"]).partition(" ")[0] for key, value in pairs}


def counts(source: PinnedMap, *, has_all: bool) -> dict[tuple[str, str], int]:
    """Packets by program and reason, the most first."""
    rows = [
        (str(key["program"]), str(key["reason"]), int(str(value["packets"])))
        for key, value in source.entries()
    ]
    wanted = (
        (program, reason, packets)
        for program, reason, packets in rows
        if has_all or (program, reason) in DROPS
    )
    return {
        (program, reason): packets for program, reason, packets in sorted(wanted, key=lambda row: -row[2])
    }


def rates(
    before: Mapping[tuple[str, str], int], now: Mapping[tuple[str, str], int], past_s: float
) -> list[Row]:
    """`now` with how many came in each second of `past_s`."""
    return [
        {
            "program": program,
            "reason": reason,
            "packets": packets,
            "per_s": round((packets - before.get((program, reason), 0)) / past_s, 1),
        }
        for (program, reason), packets in now.items()
    ]
