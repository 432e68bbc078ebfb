"""A SYN that the kernel programs hold: read from its copy, sent again, or answered with a reset. Pure bytes.

The record is struct held_syn of bpf/include/ztun_types.h: the frame's headers up to the end of TCP's options, without
data. What is built here goes to a packet socket with PACKET_VNET_HDR (packet(7)): a struct virtio_net_hdr in front says
that the TCP checksum is still to be added up, from the sum of the pseudo-header in its field (RFC 9293, 3.1). The copy
itself has no more than that sum, or less, as the frame has not left the machine.
"""

from __future__ import annotations

import struct

from agent.model.address import IP, SocketAddress, ip_from_bytes

RECORD = struct.Struct("=QIBBBx152s")
"""When (ns of the monotonic clock), ifindex, hook, where TCP's header begins, bytes of the frame, the frame."""
FROM_POD, TO_POD = 0, 1
"""Hooks: the pod opens the connection, or is to take it."""
MARKER_MAC = bytes.fromhex("027a74756e53")
"""Source of a frame that is to be let in: `is_let_in` of bpf/include/ztun_hold.h. Locally administered, nobody's."""
VNET_HEADER = struct.Struct("=BBHHHH")
NEEDS_CHECKSUM = 1
ETHER_BYTES, IP4_BYTES, IP6_BYTES, TCP_BYTES = 14, 20, 40, 20
CHECKSUM_AT = 16
ETHER_IP4, ETHER_IP6 = b"\x08\x00", b"\x86\xdd"
TCP = 6
RST_ACK = 0x14
HOPS = 64
DONT_FRAGMENT = 0x4000
"""In the word of IPv4's header that has flags and offset."""
_IP4 = struct.Struct(">BBHHHBBH4s4s")
_IP6 = struct.Struct(">IHBB16s16s")
_TCP = struct.Struct(">HHIIBBHHH")
_PORTS = struct.Struct(">HHI")


class HeldSyn:
    """`peer` opens the connection, `local` is what it dialled; both are its `key`. `headers` is the frame without data.

    `payload_bytes`: what the SYN carried (TCP Fast Open); its sender sends it again.
    """

    __slots__ = ("at_ns", "headers", "hook", "key", "l4_offset", "payload_bytes", "sequence")

    def __init__(
        self,
        at_ns: int,
        hook: int,
        key: tuple[SocketAddress, SocketAddress],
        sequence: int,
        payload_bytes: int,
        l4_offset: int,
        headers: bytes,
    ) -> None:
        self.at_ns = at_ns
        self.hook = hook
        self.key = key
        self.sequence = sequence
        self.payload_bytes = payload_bytes
        self.l4_offset = l4_offset
        self.headers = headers

    @property
    def peer(self) -> SocketAddress:
        return self.key[0]

    @property
    def local(self) -> SocketAddress:
        return self.key[1]

    @property
    def pod(self) -> IP:
        """The address of the enrolled pod that it is from, or to."""
        return self.peer.ip if self.hook == FROM_POD else self.local.ip


def read(record: bytes) -> HeldSyn:
    """The SYN of a record. Raises ValueError for one that the programs do not write."""
    if len(record) < RECORD.size:
        raise ValueError(f"a record of {len(record)} bytes instead of {RECORD.size}")
    at_ns, _, hook, l4, size, frame = RECORD.unpack_from(record)
    if hook not in (FROM_POD, TO_POD):
        raise ValueError(f"a SYN of hook {hook}")
    if l4 + TCP_BYTES > size or size > len(frame):
        raise ValueError(f"a frame of {size} bytes with TCP at {l4}")
    kind = frame[12:14]
    if kind == ETHER_IP4 and l4 >= ETHER_BYTES + IP4_BYTES:
        source, destination = frame[26:30], frame[30:34]
        total = ETHER_BYTES + int.from_bytes(frame[16:18], "big")
    elif kind == ETHER_IP6 and l4 >= ETHER_BYTES + IP6_BYTES:
        source, destination = frame[22:38], frame[38:54]
        total = ETHER_BYTES + IP6_BYTES + int.from_bytes(frame[18:20], "big")
    else:
        raise ValueError(f"a frame of type {kind.hex()} with TCP at {l4}")
    sport, dport, sequence = _PORTS.unpack_from(frame, l4)
    return HeldSyn(
        at_ns,
        hook,
        (SocketAddress(ip_from_bytes(source), sport), SocketAddress(ip_from_bytes(destination), dport)),
        sequence,
        max(0, total - size),
        l4,
        frame[:size],
    )


def again(syn: HeldSyn, to_mac: bytes) -> bytes:
    """The SYN as it was, without data, marked to be let in by the device that has this MAC."""
    frame, l4 = syn.headers, syn.l4_offset
    ip_bytes = len(frame) - ETHER_BYTES
    if frame[12:14] == ETHER_IP4:
        addresses = frame[26:34]
        before, after = frame[12:16] + ip_bytes.to_bytes(2, "big") + frame[18:24], frame[26:l4]
        # Without the field itself, which counts as zero.
        head = before + (folded(before[2:] + after) ^ 0xFFFF).to_bytes(2, "big") + after
    else:
        addresses = frame[22:54]
        head = frame[12:18] + (ip_bytes - IP6_BYTES).to_bytes(2, "big") + frame[20:l4]
    at = l4 + CHECKSUM_AT
    checksum = pseudo_sum(addresses, len(frame) - l4).to_bytes(2, "big")
    return b"".join((vnet_header(l4), to_mac, MARKER_MAC, head, frame[l4:at], checksum, frame[at + 2 :]))


def reset(syn: HeldSyn, macs: bytes) -> bytes:
    """What a closed port answers: RST and ACK, for the SYN and what it carried (RFC 9293, 3.10.7.1).

    `macs` (both) mean nothing: the programs put in others.
    """
    frame = syn.headers
    acknowledged = (syn.sequence + 1 + syn.payload_bytes) & 0xFFFFFFFF
    if frame[12:14] == ETHER_IP4:
        source, destination = frame[30:34], frame[26:30]
        total = IP4_BYTES + TCP_BYTES
        fields = [0x45, 0, total, 0, DONT_FRAGMENT, HOPS, TCP, 0, source, destination]
        fields[7] = folded(_IP4.pack(*fields)) ^ 0xFFFF
        head = ETHER_IP4 + _IP4.pack(*fields)
    else:
        source, destination = frame[38:54], frame[22:38]
        head = ETHER_IP6 + _IP6.pack(6 << 28, TCP_BYTES, TCP, HOPS, source, destination)
    checksum = pseudo_sum(source + destination, TCP_BYTES)
    ports = (syn.local.port, syn.peer.port)
    tcp = _TCP.pack(*ports, 0, acknowledged, TCP_BYTES << 2, RST_ACK, 0, checksum, 0)
    return vnet_header(len(macs) + len(head)) + macs + head + tcp


def vnet_header(l4_offset: int) -> bytes:
    """For a frame whose TCP checksum is to be added up."""
    return VNET_HEADER.pack(NEEDS_CHECKSUM, 0, 0, 0, l4_offset, CHECKSUM_AT)


def pseudo_sum(addresses: bytes, tcp_bytes: int) -> int:
    """Of the pseudo-header: both addresses, protocol and length. See `folded`: what is added here is never zero."""
    return (int.from_bytes(addresses, "big") + TCP + tcp_bytes) % 0xFFFF or 0xFFFF


def folded(data: bytes) -> int:
    """Sum of 16-bit words in one's complement (RFC 1071). Of an even number of bytes, as all that is summed here.

    As with the digits of a decimal number and 9: the number is the sum of its words, but for multiples of 0xFFFF, which
    stands for zero where not all words are zero.
    """
    number = int.from_bytes(data, "big")
    return number % 0xFFFF or (0xFFFF if number else 0)
