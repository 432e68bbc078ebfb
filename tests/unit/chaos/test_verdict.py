"""The verdict of a step: what a fault may cost is silent, everything else is named; READY is held to what it says."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.losses import RESETS, Allowed, Loss, Path, Reach, loss_of
from tests.chaos.verdict import Look, Seen, Visit, violations

ACROSS, WITHIN = Path("client-a", "server-b"), Path("client-a", "server-a")
RESET = "receive: [Errno 104] Connection reset by peer"
KILLED = Allowed(30, live=RESETS, new=RESETS, reach=Reach.NODE)
NOTHING = Allowed(30)


@pytest.mark.parametrize(
    ("why", "loss"),
    [
        ("calm: receive: [Errno 104] Connection reset by peer", Loss.RESET),
        ("send: [Errno 32] Broken pipe", Loss.RESET),
        ("calm: no answer in 30 s", Loss.SILENT),
        ("hear: timed out", Loss.SILENT),
        ("bulk: receive: [Errno 110] Connection timed out", Loss.SILENT),
        ("connect: [Errno 111] Connection refused", Loss.REFUSED),
        ("calm: it ended after 7 bytes, of 8 sent", Loss.ENDED),
        ("bulk: wrong bytes from 5 on", Loss.WRONG),
        ("connect: [Errno 113] No route to host", Loss.OTHER),
    ],
)
def test_the_kernels_words_for_an_end(why: str, loss: Loss) -> None:
    assert loss_of(why) is loss


def lost(path: Path, why: str) -> Seen:
    return Seen(lost={path: Counter({why: 1})})


def failed(path: Path, why: str, began_s: float = 1.0) -> Seen:
    return Seen(visits={path: [Visit(began_s, 0.1, why)]})


def test_a_killed_node_may_cost_resets_of_its_own_connections_alone() -> None:
    for seen in (lost(ACROSS, RESET), failed(ACROSS, RESET)):
        assert not violations(seen, [("node-b", KILLED)], 10)
        assert violations(seen, [("node-b", NOTHING)], 10)
    for seen in (lost(WITHIN, RESET), failed(WITHIN, RESET)):
        assert violations(seen, [("node-b", KILLED)], 10)
        assert not violations(seen, [("node-a", KILLED)], 10)


def test_of_two_faults_either_may_allow_a_loss() -> None:
    both = [("node-a", NOTHING), ("node-b", KILLED)]
    assert not violations(lost(ACROSS, RESET), both, 10)
    assert violations(lost(WITHIN, RESET), both, 10)


@pytest.mark.parametrize("why", ["calm: it ended after 7 bytes, of 8 sent", "bulk: wrong bytes from 5 on"])
def test_an_early_end_and_a_wrong_byte_are_never_allowed(why: str) -> None:
    assert violations(lost(ACROSS, why), [("node-a", Allowed(1, live=RESETS, reach=Reach.ALL))], 10)


def test_what_begins_when_all_has_healed_may_not_fail() -> None:
    seen = failed(ACROSS, RESET, began_s=20)
    assert not violations(seen, [("node-b", KILLED)], 10, until_s=21)
    assert violations(seen, [("node-b", KILLED)], 10, until_s=19)


def test_a_broken_link_touches_what_crosses_it_alone() -> None:
    parted = Allowed(30, new=RESETS, reach=Reach.LINK)
    assert not violations(failed(ACROSS, RESET), [("node-a", parted)], 10)
    assert violations(failed(WITHIN, RESET), [("node-a", parted)], 10)


def test_clear_packets_and_denied_bytes_are_named_whatever_the_fault() -> None:
    everything = Allowed(30, live=frozenset(Loss), new=frozenset(Loss), reach=Reach.ALL)
    seen = Seen(plain=2, denied={"10.0.0.1 at server-a": 5, "10.0.0.2 at server-a": 0})
    seen.denied_visits[ACROSS] = [Visit(1, 0.1, ""), Visit(2, 0.1, RESET)]
    lines = violations(seen, [("node-a", everything)], 10)
    assert lines == [
        "2 packets without TLS between the nodes",
        "policy denies 10.0.0.1 at server-a: 5 bytes came through",
        f"policy denies {ACROSS}: 1 connections were served",
    ]


def looks(*states: bool) -> list[Look]:
    return [Look(second, second + 0.1, is_ready) for second, is_ready in enumerate(states)]


def test_ready_is_a_lie_where_a_connection_takes_longer_all_the_while() -> None:
    slow = Seen(visits={ACROSS: [Visit(0, 8, "")]}, looks={"node-a": looks(*[True] * 9)})
    slow.looks["node-b"] = looks(*[True] * 9)
    (line,) = violations(slow, [("node-a", NOTHING)], 5)
    assert "READY told" in line
    assert not violations(slow, [("node-a", NOTHING)], 9), "within the bound"
    assert not violations(slow, [("node-a", Allowed(30, link_is_broken=True))], 5), "nobody can know"
    slow.looks["node-b"] = looks(True, True, False, True, True, True, True)
    assert not violations(slow, [("node-a", NOTHING)], 5), "it was told in between"
    slow.looks["node-b"] = []
    assert not violations(slow, [("node-a", NOTHING)], 5), "nobody said anything"
