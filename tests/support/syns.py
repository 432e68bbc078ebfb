"""SYNs made by hand and sent from inside a pod, past its own TCP: many, or by clients that are not there."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from pathlib import Path

from agent.lab.topology import NodePlace, PodPlace
from redirect import sys_bpf
from redirect.netns import entered
from tests.support import packets as pk
from tests.support.packets import TCP

DEVICE = "eth0"
NOBODYS = b"\xff" * 6
"""Programs of ours take a frame whatever its MAC."""
OPTIONS = bytes.fromhex("020405b40402080a000000010000000001030307")


class SynGun:
    """Sends SYNs of a pod; its kernel knows nothing of them, and resets what is answered."""

    def __init__(self, pod: PodPlace, device: str = DEVICE, hop_mac: bytes = NOBODYS) -> None:
        """`hop_mac`: of the next hop, where the host routes the frames and looks at their checksums."""
        self._hop_mac = hop_mac
        with entered(pod.netns):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._sock.bind((device, 0))
            self._own_mac = self._sock.getsockname()[4]

    def __enter__(self) -> SynGun:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, source: str, sport: int, destination: str, dport: int, sequence: int = 1000) -> None:
        self._sock.send(self._frame(source, sport, destination, dport, sequence))

    def _frame(self, source: str, sport: int, destination: str, dport: int, sequence: int) -> bytes:
        segment = bytearray(pk.tcp(sport, dport, options=OPTIONS))
        segment[4:8] = sequence.to_bytes(4, "big")
        frame = pk.ip(source, destination, TCP, pk.with_checksum(source, destination, bytes(segment)))
        if self._hop_mac != NOBODYS and not pk.is_v6(source):
            frame = pk.with_ip_checksum(frame)
        return self._hop_mac + self._own_mac + frame[12:]

    def flood(
        self, source: str, destination: str, dport: int, per_s: int, for_s: float, ahead: int = 0
    ) -> int:
        """SYNs from ever other ports; how many there were. A machine that is too slow sends fewer.

        `ahead`: so many are made before the first is sent, and sent over and over: for rates that leave no time for it.
        """
        ready = [self._frame(source, 1024 + n, destination, dport, 1000 + n) for n in range(ahead)]
        began_s, sent = time.monotonic(), 0
        while (passed_s := time.monotonic() - began_s) < for_s:
            while sent < passed_s * per_s:
                if ready:
                    self._sock.send(ready[sent % ahead])
                else:
                    self.send(source, 1024 + sent % 64000, destination, dport, 1000 + sent)
                sent += 1
            time.sleep(0.001)
        return sent


XDP, LIVE_FRAMES = 6, 2
AT_ONCE, TOGETHER = 1024, 64
"""A call waits for a grace period of RCU when it ends, so one call is of many; so many go up the stack together."""
SPORT_AT, LOW_SEQUENCE_AT = 34, 40


def xdp_program(frame: bytes) -> bytes:
    """Passes a frame that it has written anew, from any of 4,096 ports: what was sent before is in its place.

    Port and low half of the sequence add up to what they did, and so does the checksum. Four and more bytes each
    (struct bpf_insn): code, registers, offset, immediate.
    """
    words = [
        (0x62, 0x06, at, int.from_bytes(frame[at : at + 4], "little", signed=True))
        for at in range(0, len(frame) - 3, 4)
    ]
    if len(frame) % 4:
        words.append((0x6A, 0x06, len(frame) - 2, int.from_bytes(frame[-2:], "little")))
    writing = [
        *words,
        (0x85, 0x00, 0, 7),  # r0 = bpf_get_prandom_u32()
        (0x57, 0x00, 0, 0xFF1F),  # none below 1024, and no more than conntrack holds
        (0x47, 0x00, 0, 4),
        (0x6B, 0x06, SPORT_AT, 0),
        (0xA7, 0x00, 0, -1),
        (0x6B, 0x06, LOW_SEQUENCE_AT, 0),
    ]
    code = [
        (0x61, 0x16, 0, 0),  # r6 = ctx->data
        (0x61, 0x13, 4, 0),  # r3 = ctx->data_end
        (0xBF, 0x64, 0, 0),  # r4 = r6
        (0x07, 0x04, 0, len(frame)),
        (0x2D, 0x34, len(writing), 0),
        *writing,
        (0xB7, 0x00, 0, 2),  # XDP_PASS
        (0x95, 0x00, 0, 0),
    ]
    return b"".join(struct.pack("=BBhi", *each) for each in code)


class SynHose:
    """The same frames, of IPv4, as if a node had received them, by the kernel's own hand: so many are little work.

    BPF_PROG_TEST_RUN with live frames (Linux 5.18): each goes up the node's stack from its loopback device, from a port
    of its own, as conntrack takes no two beginnings of one connection at once. All that becomes of it until it waits
    for a process is done within the call, so the caller's CPU time is what it costs.
    """

    def __init__(self, node: NodePlace, source: str, destination: str, dport: int) -> None:
        """Raises OSError."""
        with entered(node.netns):
            self._netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        segment = bytearray(pk.tcp(1024, dport, options=OPTIONS))
        segment[4:8] = (1000 << 16 | 0xFFFF ^ 1024).to_bytes(4, "big")
        frame = pk.ip(source, destination, TCP, pk.with_checksum(source, destination, bytes(segment)))
        whole = bytes(12) + pk.with_ip_checksum(frame)[12:]
        self._frame = ctypes.create_string_buffer(whole, len(whole))
        code = xdp_program(whole)
        held, words = (
            ctypes.create_string_buffer(code, len(code)),
            ctypes.create_string_buffer(b"Apache-2.0\0"),
        )
        attributes = struct.pack(
            "=IIQQ", XDP, len(code) // 8, ctypes.addressof(held), ctypes.addressof(words)
        )
        self._program = sys_bpf.call(sys_bpf.PROG_LOAD, attributes)

    def __enter__(self) -> SynHose:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._program)
        os.close(self._netns)

    def flood(self, per_s: int, for_s: float) -> int:
        """How many there were. A machine that is too slow sends fewer."""
        sent = 0
        with entered(Path(f"/proc/self/fd/{self._netns}")):
            began_s = time.monotonic()
            while (passed_s := time.monotonic() - began_s) < for_s:
                if sent < passed_s * per_s:
                    self._burst()
                    sent += AT_ONCE
                else:
                    time.sleep(0.0005)
        return sent

    def _burst(self) -> None:
        attributes = struct.pack(
            "=IIIIQQIIIIQQIII",
            *(self._program, 0, len(self._frame), 0, ctypes.addressof(self._frame), 0),
            *(AT_ONCE, 0, 0, 0, 0, 0, LIVE_FRAMES, 0, TOGETHER),
        )
        sys_bpf.call(sys_bpf.PROG_TEST_RUN, attributes)
