"""Every exit of every tc program: verdict, counter, mark, bytes and maps after one packet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.wire.held_syn import RECORD
from redirect.layout import ENDING, GUARDS, REASONS
from tests.packets import (
    bridge_rows,
    bypass_rows,
    claim_rows,
    encapsulation_rows,
    from_pod_rows,
    glass_rows,
    guard_rows,
    header_rows,
    hold_rows,
    prefilter_rows,
    segment_rows,
    side_rows,
    to_pod_rows,
)
from tests.packets.rig import Rig
from tests.packets.test_lookups import LOOKUPS, UNFIT
from tests.packets.world import NEXT, POD_MAC, SHOT, V4, V6, Row

ROWS = [
    *from_pod_rows.rows(),
    *header_rows.rows(),
    *to_pod_rows.rows(),
    *side_rows.rows(),
    *segment_rows.rows(),
    *bridge_rows.rows(),
    *encapsulation_rows.rows(),
    *hold_rows.rows(),
    *bypass_rows.rows(),
    *claim_rows.rows(),
    *glass_rows.rows(),
    *prefilter_rows.rows(),
    *guard_rows.rows(),
]
END_OF_KEPT = "GRANDFATHER_END"
NEW = ("SYN_TO_PROXY", "HOST_SYN_TO_PROXY", "SYN_HELD", "SYN_AGAIN", "SYN_UNHELD", "SYN_RING_FULL")


@pytest.mark.kernel
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_packet_leaves_by_the_exit_it_should(rig: Rig, row: Row) -> None:
    with rig.world(row.world):
        seen = rig.play(row.program, row.packet, row.mark, row.ingress_ifindex, row.gso_size_bytes)
        captured = rig.captures()
    counted = {f"{row.program}/{row.exit}": 1}
    if row.is_end_of_kept:
        counted[f"{row.program}/{END_OF_KEPT}"] = 1
    assert (seen.counted, seen.verdict) == (counted, row.verdict)
    assert seen.mark == row.mark_after
    # What the prover holds against the accepts of the workers: new connections, and nothing else.
    is_new = row.exit in NEW
    assert (captured.outbound, captured.inbound) == (
        is_new and row.program == "from_pod",
        is_new and row.program == "to_pod",
    )
    assert seen.data == _expected_bytes(rig, row)
    assert seen.passthru == frozenset(() if row.is_end_of_kept else (*row.world.passthru, *row.begins))
    ifindex = rig.ifindex + row.world.is_by_other
    assert seen.hostflows == dict.fromkeys(row.world.hostflows, ifindex) | dict.fromkeys(
        (*row.world.opened, *row.notes), rig.ifindex
    ) | dict.fromkeys(
        row.notes_bypassed if row.is_end_of_bypassed else (*row.world.bypassed, *row.notes_bypassed), 0
    )
    before = dict(row.world.bridge.neighbours) if row.world.bridge else {}
    assert seen.neighbours == {**before, **dict(row.learns)}
    assert seen.wanted == frozenset(row.asks)
    assert [RECORD.unpack(record)[5][: len(row.holds)] for record in seen.held] == [row.holds] * bool(
        row.holds
    )


@pytest.mark.kernel
@pytest.mark.parametrize("row", [row for row in ROWS if row.program in ENDING][::9], ids=lambda row: row.id)
def test_one_that_ends_differs_in_what_it_lets_pass_alone(rig: Rig, row: Row) -> None:
    """Of a program that others are behind: they do not get it."""
    played = []
    for program in (row.program, ENDING[row.program]):
        with rig.world(row.world):
            played.append(rig.play(program, row.packet, row.mark, row.ingress_ifindex, row.gso_size_bytes))
    usual, ending = played
    assert ending.verdict == (0 if usual.verdict == NEXT else usual.verdict)
    # The copy of a held SYN says when it came.
    assert replace(ending, verdict=usual.verdict, held=usual.held) == usual and len(ending.held) == len(
        usual.held
    )


def _expected_bytes(rig: Rig, row: Row) -> bytes:
    hop_mac = V6.hop_mac if row.packet[12:14] == b"\x86\xdd" else V4.hop_mac
    heads = {
        "": row.packet[:12],
        "net side": rig.links["net"].inner_mac + row.packet[6:12],
        "out": hop_mac + POD_MAC,
        "into": POD_MAC + hop_mac,
        "turned": row.packet[6:12] + row.packet[:6],
    }
    head = heads[row.head]
    return (row.goes_to or head[:6]) + head[6:] + (row.after or row.packet)[12:]


def test_every_exit_has_a_row() -> None:
    covered = {(row.program, row.exit) for row in ROWS} | {(look.program, look.exit) for look in LOOKUPS}
    covered |= {(row.program, END_OF_KEPT) for row in ROWS if row.is_end_of_kept}
    # test_lookups and test_guards have tests of their own for these
    covered |= {(guard, "SEEN") for guard in GUARDS}
    covered |= {(look.program, UNFIT) for look in LOOKUPS}
    assert {(reason.program, reason.name) for reason in REASONS} == covered


def test_rows_have_names_of_their_own() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_what_is_called_a_drop_drops() -> None:
    drops = {(reason.program, reason.name): reason.is_drop for reason in REASONS}
    for row in ROWS:
        # What is held goes on elsewhere: no drop, whatever the verdict.
        is_held = row.exit == "SYN_HELD"
        assert drops[row.program, row.exit] == (row.verdict == SHOT and not is_held), row.id
