"""Any bytes at all through the four tc programs of an enrolled pod: one exit, a known verdict, never past the proxy."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.wire import held_syn
from tests.packets.rig import Rig
from tests.packets.test_programs import END_OF_KEPT
from tests.packets.world import (
    FAMILIES,
    FORWARDED,
    HONEST,
    NEXT,
    POD_MAC,
    REDIRECT,
    SHOT,
    V4,
    V6,
    Family,
    World,
)
from tests.support import packets as pk

pytestmark = pytest.mark.kernel
FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
TC_PROGRAMS = ("from_pod", "to_pod", "from_pod_side", "from_net_side")
ETHERTYPES = st.sampled_from((pk.ETH_IPV4, pk.ETH_IPV6, pk.ETH_ARP, pk.ETH_VLAN)) | st.integers(0, 0xFFFF)
INTERESTING = st.sampled_from((0, 1, 4, 6, 17, 43, 44, 47, 50, 51, 58, 60, 135, 255))
PORTS = st.integers(0, 0xFFFF)


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Random bytes, often with a version, a protocol and addresses that lead deep into the programs."""
    ethertype, body = draw(ETHERTYPES), bytearray(draw(st.binary(min_size=60, max_size=200)))
    if ethertype == pk.ETH_IPV4 and draw(st.booleans()):
        body[0] = 0x40 | draw(st.integers(4, 15))
        body[9] = draw(INTERESTING)
        body[12:20] = pk.ip4(*_ends(draw, V4), 0, b"")[12:20]
    elif ethertype == pk.ETH_IPV6 and draw(st.booleans()):
        body[0] = 0x60
        body[6] = draw(INTERESTING)
        body[8:40] = pk.ip6(*_ends(draw, V6), 0, b"")[8:40]
        if draw(st.booleans()):
            body[40:42] = bytes((draw(INTERESTING), draw(st.integers(0, 3))))
    return pk.ether(bytes(body), ethertype)


def _ends(draw: st.DrawFn, net: Family) -> tuple[str, str]:
    return draw(st.permutations((net.pod, net.peer, net.host)))[0], draw(st.sampled_from((net.pod, net.host)))


@pytest.mark.parametrize("program", TC_PROGRAMS)
@FEW
@given(packet=noise(), ingress_ifindex=st.sampled_from((0, FORWARDED)))
def test_noise_leaves_by_exactly_one_exit(
    rig: Rig, program: str, packet: bytes, ingress_ifindex: int
) -> None:
    with rig.world(World()):
        seen = rig.play(program, packet, 0, ingress_ifindex)
    assert seen.verdict in (NEXT, SHOT, REDIRECT)
    assert [name.partition("/")[0] for name in seen.counted] == [program]
    assert list(seen.counted.values()) == [1]
    heads = [packet[:12], rig.links["net"].inner_mac + packet[6:12]]
    heads += [head for net in FAMILIES for head in (net.hop_mac + POD_MAC, POD_MAC + net.hop_mac)]
    assert seen.data[:12] in heads
    assert seen.data[12:] == packet[12:]
    if program in ("from_pod_side", "from_net_side"):
        assert seen.verdict != NEXT


@st.composite
def own_segment(draw: st.DrawFn) -> tuple[bytes, int]:
    """A valid TCP segment of the pod to anywhere, behind options or extension headers; and its flags."""
    flags = draw(st.integers(0, 255))
    segment = pk.tcp(draw(PORTS), draw(PORTS), flags, draw(st.binary(max_size=40)))
    if draw(st.booleans()):
        far = str(draw(st.ip_addresses(v=4)))
        options = b"\x01" * 4 * draw(st.integers(0, 10))
        return pk.framed(pk.ip4(V4.pod, far, pk.TCP, segment, options=options)), flags
    following = pk.TCP
    for _ in range(draw(st.integers(0, 4))):
        segment, following = pk.extension(following, segment, draw(st.integers(0, 2))), pk.DEST_OPTIONS
    return pk.framed(pk.ip6(V6.pod, str(draw(st.ip_addresses(v=6))), following, segment)), flags


@FEW
@given(sent=own_segment(), mark=st.integers(0, 0xFFF).filter(lambda mark: mark != 0x1C6))
def test_no_segment_of_an_enrolled_pod_goes_past_the_proxy(
    rig: Rig, sent: tuple[bytes, int], mark: int
) -> None:
    packet, flags = sent
    with rig.world(World(hostips=(V4.host, V6.host))):
        seen = rig.play("from_pod", packet, mark)
    is_new = flags & (pk.SYN | pk.ACK) == pk.SYN
    assert seen.counted == {f"from_pod/{'SYN_TO_PROXY' if is_new else 'TO_PROXY'}": 1}
    assert seen.verdict == REDIRECT


@FEW
@given(sent=own_segment())
def test_a_new_connection_of_an_honest_pod_is_held_and_can_be_let_in_or_goes_to_the_proxy(
    rig: Rig, sent: tuple[bytes, int]
) -> None:
    packet, flags = sent
    is_new = flags & (pk.SYN | pk.ACK) == pk.SYN
    with rig.world(World(flags=HONEST, has_ring=True)):
        seen = rig.play("from_pod", packet)
        ((name, _),) = seen.counted.items()
        assert name in ({"from_pod/SYN_HELD", "from_pod/SYN_TO_PROXY"} if is_new else {"from_pod/TO_PROXY"})
        assert seen.verdict == (SHOT if name == "from_pod/SYN_HELD" else REDIRECT)
        assert len(seen.held) == (name == "from_pod/SYN_HELD")
        for record in seen.held:
            syn = held_syn.read(record)
            frame = held_syn.again(syn, POD_MAC)[held_syn.VNET_HEADER.size :]
            assert rig.play("from_pod_side", frame).counted == {"from_pod_side/SYN_BACK": 1}
            answer = held_syn.reset(syn, POD_MAC * 2)[held_syn.VNET_HEADER.size :]
            assert rig.play("from_pod_side", answer).counted == {"from_pod_side/TO_POD": 1}


@FEW
@given(sport=PORTS, dport=PORTS, flags=st.integers(0, 255), net=st.sampled_from((V4, V6)))
def test_a_kept_tuple_is_no_way_out_for_a_new_connection(
    rig: Rig, sport: int, dport: int, flags: int, net: Family
) -> None:
    entries = net.both_ways(sport, (net.peer, dport))
    with rig.world(World(passthru=entries)):
        seen = rig.play("from_pod", pk.segment(net.pod, sport, net.peer, dport, flags))
    is_new = flags & (pk.SYN | pk.ACK) == pk.SYN
    assert seen.verdict == (REDIRECT if is_new else NEXT)
    assert (f"from_pod/{END_OF_KEPT}" in seen.counted) == is_new
    assert seen.passthru == (frozenset() if is_new else frozenset(entries))


@FEW
@given(
    source=st.ip_addresses(), destination=st.ip_addresses(v=4), ports=st.tuples(PORTS, PORTS), data=st.data()
)
def test_a_foreign_source_never_goes_on(
    rig: Rig, source: object, destination: object, ports: tuple[int, int], data: st.DataObject
) -> None:
    """Link-local and :: pass the check of the source (neighbour discovery), but not as TCP past the proxy."""
    far = str(destination) if ":" not in str(source) else V6.peer
    flags = data.draw(st.sampled_from((pk.SYN, pk.ACK)))
    packet = pk.segment(str(source), ports[0], far, ports[1], flags)
    with rig.world(World()):
        seen = rig.play("from_pod", packet)
    assert seen.verdict in (SHOT, REDIRECT)
    if str(source) not in (V4.pod, V6.pod) and not _is_for_discovery(packet):
        assert seen.counted == {"from_pod/SPOOFED": 1}


def _is_for_discovery(packet: bytes) -> bool:
    if struct.unpack_from("!H", packet, 12)[0] != pk.ETH_IPV6:
        return False
    source = packet[22:38]
    return source == bytes(16) or (source[0] == 0xFE and source[1] & 0xC0 == 0x80)


@st.composite
def tcp_options(draw: st.DrawFn) -> bytes:
    """Up to 40 bytes: single bytes and whole options in any order, cut anywhere."""
    pieces = st.one_of(
        st.binary(min_size=1, max_size=3),
        st.just(b"\x01"),
        st.integers(0, 0xFFFF).map(lambda size: b"\x02\x04" + size.to_bytes(2, "big")),
        st.binary(max_size=8).map(lambda value: b"\x08" + bytes([2 + len(value)]) + value),
    )
    raw = b"".join(draw(st.lists(pieces, max_size=12)))[:40]
    return raw + bytes(-len(raw) % 4)


def lowered(options: bytes, limit: int) -> bytes:
    """What becomes of the options, after RFC 9293, 3.1 and tcp_parse_options of Linux."""
    after, at = bytearray(options), 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if options[at] == 2 and size == 4 and int.from_bytes(options[at + 2 : at + 4], "big") > limit:
            after[at + 2 : at + 4] = limit.to_bytes(2, "big")
        at += size
    return bytes(after)


@FEW
@given(options=tcp_options(), data=st.binary(max_size=9), net=st.sampled_from((V4, V6)), limit=PORTS)
def test_each_mss_is_lowered_and_nothing_else_changes_but_the_checksum(
    rig: Rig, options: bytes, data: bytes, net: Family, limit: int
) -> None:
    def frame(options: bytes) -> bytes:
        segment = pk.tcp(40000, 80, pk.SYN, data, options=options)
        return pk.ip(net.pod, net.peer, pk.TCP, pk.with_checksum(net.pod, net.peer, segment))

    with rig.world(World(mss_bytes=limit)):
        seen = rig.play("from_pod", frame(options))
    assert seen.data == frame(lowered(options, limit))
