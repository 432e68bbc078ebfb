"""How `ztun trace` reads what it is asked for, and how it words what it is told."""

from __future__ import annotations

import ipaddress

import pytest
from click.testing import CliRunner

from agent.cli.trace import trace
from agent.cli.trace_wanted import wanted
from agent.cli.trace_words import Names, is_proof, line, row, went
from redirect.errors import PodNotFound
from redirect.layout import NO_ADDRESS, REASONS, Flag, IfaceEntry, address_key, parse_ip
from redirect.opened import Target
from redirect.sides import PROXY_ADDRESSES
from redirect.trace_entries import ANY_ADDRESS, NOBODYS_ADDRESS, TraceEvent, TraceFilter

V4, V6 = address_key(parse_ip("10.1.0.7")), address_key(parse_ip("fd00::7"))
OTHER = address_key(parse_ip("10.2.0.9"))
POD = Target(5, "veth-a", "demo/web-1", IfaceEntry(Flag.ENROLLED, V4, V6))
CLOSED = Target(6, "veth-b", "demo/new", IfaceEntry(Flag.ENROLLED, NO_ADDRESS, NO_ADDRESS))
KNOWN = {5: POD, 6: CLOSED}
NAMES = Names({5: "veth-a", 9: "ztun-net"}, {5: "demo/web-1"}, {ipaddress.ip_address("10.1.0.7"): 5}, 10**18)
INDEX = {(each.program, each.name): each.index for each in REASONS}


def event(program: str, reason: str, **changes: object) -> TraceEvent:
    fields: dict[str, object] = {
        "at_ns": 1_500_000_000,
        "ifindex": 5,
        "frame_bytes": 74,
        "reason": INDEX[program, reason],
        "ethertype": 0x0800,
        "sport": 40000,
        "dport": 443,
        "protocol": 6,
        "tcp_flags": 0x12,
        "source": V4,
        "destination": OTHER,
    }
    return TraceEvent(**(fields | changes))  # type: ignore[arg-type]


def of_pod(text: str) -> TraceFilter:
    return wanted(text, KNOWN, is_ends_only=False)


@pytest.mark.parametrize("text", ["demo/web-1", "veth-a", "10.1.0.7", "::ffff:10.1.0.7", "fd00::7"])
def test_a_pod_is_both_its_addresses_and_its_interface(text: str) -> None:
    assert of_pod(text) == TraceFilter(own=V4, own_too=V6, ifindex=5)


def test_a_pod_without_addresses_is_its_interface_alone() -> None:
    assert of_pod("demo/new") == TraceFilter(own=NOBODYS_ADDRESS, own_too=NOBODYS_ADDRESS, ifindex=6)


@pytest.mark.parametrize(
    ("text", "own", "own_port", "far", "far_port"),
    [
        ("10.2.0.9", OTHER, 0, ANY_ADDRESS, 0),
        ("10.2.0.9:443", OTHER, 443, ANY_ADDRESS, 0),
        (":443", ANY_ADDRESS, 443, ANY_ADDRESS, 0),
        ("10.1.0.7:40000-10.2.0.9:443", V4, 40000, OTHER, 443),
        ("10.1.0.7-:443", V4, 0, ANY_ADDRESS, 443),
        ("[fd00::7]:80-10.2.0.9", V6, 80, OTHER, 0),
    ],
)
def test_a_tuple_may_leave_parts_out(text: str, own: bytes, own_port: int, far: bytes, far_port: int) -> None:
    asked = wanted(text, KNOWN, is_ends_only=True)
    ports = {"own_port": own_port, "far_port": far_port}
    assert asked == TraceFilter(own=own, own_too=own, far=far, **ports, is_ends_only=True)


@pytest.mark.parametrize(
    "text", ["demo/web", "10.1.0.7:0", ":65536", "10.1.0.7:80-", "", "-", ":x", "10.1.0.300"]
)
def test_what_is_neither_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(PodNotFound, match="demo/web-1, demo/new"):
        of_pod(text)


def test_every_exit_has_a_word_for_where_it_leads_and_drops_are_drops() -> None:
    for reason in REASONS:
        word = went(reason, 80)
        assert (word == "drop") == reason.is_drop, reason
        if reason.name.endswith(("SYN_TO_PROXY", "PICKED")):
            assert word.startswith("listener "), reason
        elif "TO_" in reason.name and not reason.is_drop:
            assert word != "pass", reason
    assert went(REASONS[INDEX["to_pod", "SYN_TO_PROXY"]], 15008) == "listener hbone"
    assert went(REASONS[INDEX["to_pod", "SYN_TO_PROXY"]], 80) == "listener plaintext"
    assert went(REASONS[INDEX["from_pod", "SYN_AGAIN"]], 15008) == "listener outbound"
    assert went(REASONS[INDEX["to_pod", "DENIED"]], 80) == "prefilter"
    assert went(REASONS[INDEX["from_pod", "UDP_PASS"]], 80) == "pass"


def test_a_line_has_all_that_is_known() -> None:
    told = row(event("from_pod", "TO_PROXY"), NAMES)
    assert told == {
        "time": "2001-09-09T01:46:41.500000Z",
        "program": "from_pod",
        "interface": "veth-a",
        "pod": "demo/web-1",
        "protocol": "TCP",
        "source": "10.1.0.7",
        "sport": 40000,
        "destination": "10.2.0.9",
        "dport": 443,
        "flags": "SA",
        "bytes": 74,
        "reason": "TO_PROXY",
        "went": "proxy",
    }
    assert line(told) == (
        "01:46:41.500000 from_pod veth-a demo/web-1 TCP 10.1.0.7:40000 > 10.2.0.9:443 [SA] 74 bytes TO_PROXY: proxy"
    )


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            event(
                "from_pod", "ARP", ethertype=0x0806, protocol=0, source=ANY_ADDRESS, destination=ANY_ADDRESS
            ),
            "from_pod veth-a demo/web-1 ARP 74 bytes ARP: pass",
        ),
        (
            event("from_pod", "UNCLASSIFIABLE", protocol=0, source=ANY_ADDRESS),
            "from_pod veth-a demo/web-1 unreadable 74 bytes UNCLASSIFIABLE: drop",
        ),
        (
            event("from_pod", "UDP_PASS", protocol=17, tcp_flags=0, source=V6, destination=V6, dport=53),
            "UDP [fd00::7]:40000 > [fd00::7]:53 74 bytes UDP_PASS: pass",
        ),
        (
            event("lookup_pod_side", "PICKED", ifindex=0, frame_bytes=0, tcp_flags=0),
            "lookup_pod_side demo/web-1 TCP 10.1.0.7:40000 > 10.2.0.9:443 PICKED: listener outbound",
        ),
        (
            event("from_net_side", "TO_HOST", ifindex=9),
            "from_net_side ztun-net demo/web-1 TCP",
        ),
        (
            event("from_pod_side", "NOT_POD", ifindex=11, destination=OTHER, source=OTHER),
            "from_pod_side #11 - TCP 10.2.0.9:40000 > 10.2.0.9:443 [SA] 74 bytes NOT_POD: drop",
        ),
    ],
)
def test_lines_of_other_packets(told: TraceEvent, words: str) -> None:
    assert words in line(row(told, NAMES))


def test_only_what_has_both_ends_at_the_proxy_is_its_probe() -> None:
    for own in map(address_key, map(parse_ip, PROXY_ADDRESSES)):
        probe = event("lookup_net_side", "PICKED", ifindex=0, source=own, destination=own)
        assert is_proof(row(probe, NAMES))
        assert not is_proof(row(event("lookup_net_side", "PICKED", source=V4, destination=own), NAMES))
        assert not is_proof(row(event("from_net_side", "TO_HOST", source=own, destination=OTHER), NAMES))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--count", "0"), "--count"),
        (("--for", "15"), "'15' is no time"),
        (("a", "b"), "unexpected extra argument"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(trace, arguments)
    assert done.exit_code == 2 and said in done.output
