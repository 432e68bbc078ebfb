"""In what order the maps are shown: the kernel's own is any, and addresses written as text sort wrongly."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from agent.cli import pinned
from agent.cli.map_fields import FIELDS
from redirect.layout import MAPS, FlowKey, HostFlow, Neighbour, NeighbourKey

IPS = [ip_address(text) for text in ("9.0.0.1", "10.0.0.2", "10.0.0.10", "fd00::9", "fd00::10")]
LINKS = [NeighbourKey(ifindex, ip) for ifindex in (2, 10) for ip in IPS]
FLOWS = [
    FlowKey(source, destination, sport, 80, 6, hook)
    for source in IPS[:3]
    for sport in (9, 10)
    for destination in IPS[:3]
    for hook in (0, 1)
]
MAC = Neighbour(b"123456")


def test_the_fields_of_every_map_are_known() -> None:
    assert set(FIELDS) == set(MAPS)


def shuffled(values: list[Any]) -> list[Any]:
    return random.Random(1).sample(values, len(values))


def maps() -> Any:
    return SimpleNamespace(
        host_addresses=lambda: set(IPS),
        neighbours=lambda: dict.fromkeys(shuffled(LINKS), MAC),
        wanted=lambda: shuffled(LINKS),
        passthrough=lambda: [(key, 5) for key in shuffled(FLOWS)],
        host_flows=lambda: [(key, HostFlow(7, 5)) for key in shuffled(FLOWS)],
    )


@pytest.mark.parametrize("table", [pinned.neighbours, pinned.wanted])
def test_by_interface_and_then_by_address(table: Callable[[Any], pinned.Entries]) -> None:
    rows = [(key["ifindex"], key["address"]) for key, _ in table(maps())]
    assert rows == [(link.ifindex, link.address) for link in LINKS]


@pytest.mark.parametrize("table", [pinned.host_flows, pinned.passthrough])
def test_flows_by_source_with_its_port_and_then_by_destination(
    table: Callable[[Any], pinned.Entries],
) -> None:
    rows = [(key["source"], key["sport"], key["destination"], value["hook"]) for key, value in table(maps())]
    assert rows == [(f.source, f.sport, f.destination, "to_pod" if f.hook else "from_pod") for f in FLOWS]


def test_addresses_of_the_host() -> None:
    entries = pinned.typed(maps())["hostips"].entries()
    assert [key["address"] for key, _ in entries] == IPS
