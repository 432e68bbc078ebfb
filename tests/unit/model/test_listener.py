"""The table of listeners against the kernel programs' header, and its own rows against each other."""

from __future__ import annotations

import re

from agent.model.listener import DNS, HBONE, LISTENERS, OWN_PORTS, ROWS, Side
from redirect.layout import MAPS, SLOTS, SOURCES

HEADER = (SOURCES / "include" / "ztun_types.h").read_text()


def test_slots_are_those_of_the_programs() -> None:
    assert {row.name: row.slot for row in LISTENERS} == SLOTS
    assert re.search(r"\bSLOTS = (\d+)", HEADER)[1] == str(len(LISTENERS))
    assert MAPS["socks"].max_entries == len(LISTENERS)


def test_the_port_that_the_programs_tell_apart_is_the_tables() -> None:
    for name, row in (("HBONE_PORT", HBONE), ("DNS_PORT", DNS)):
        assert re.search(rf"\b{name} = (\d+)", HEADER)[1] == str(row.port)


def test_rows_are_in_the_order_of_their_slots_and_share_nothing() -> None:
    assert [row.slot for row in LISTENERS] == list(range(len(LISTENERS)))
    assert len({row.name for row in LISTENERS}) == len(OWN_PORTS) == len(LISTENERS)
    assert {row.side for row in LISTENERS} == set(Side)


def test_what_takes_datagrams_stands_beside_the_listeners() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) == len(LISTENERS) + 1
    assert DNS.port not in OWN_PORTS, "connections to it are relayed for pods whose DNS is not captured"
