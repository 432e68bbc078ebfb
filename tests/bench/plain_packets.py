"""Counts what crosses a link between nodes without TLS: TCP from or to a port of an application. Needs CAP_NET_RAW.

The kernel picks the packets out by a program of classic BPF, so that nothing else is copied. The first fragment and
extension headers of IPv6 are not looked for: nobody sends them here.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from pathlib import Path

from agent.lab.wiring import UPLINK
from redirect.netns import entered

ETH_P_ALL, SO_ATTACH_FILTER = 3, 26
_LOAD_BYTE, _LOAD_HALF, _LOAD_HALF_BEHIND_IHL, _LOAD_IHL = 0x30, 0x28, 0x48, 0xB1
_IF_EQUAL, _RETURN = 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")


class PlainPackets:
    """Of one node's uplink, both ways. `count` is how many so far; close it."""

    def __init__(self, netns: Path, port: int) -> None:
        with entered(netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            program = _program(port)
            buffer = ctypes.create_string_buffer(program)
            header = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
            self._socket.bind((UPLINK, ETH_P_ALL))
        self._socket.setblocking(False)
        self._count = 0

    @property
    def count(self) -> int:
        while True:
            try:
                self._socket.recv(64)
            except BlockingIOError:
                return self._count
            self._count += 1

    def close(self) -> None:
        self._socket.close()


def _program(port: int) -> bytes:
    """tcpdump -d 'tcp port PORT', without its look at fragments."""
    rows = [
        (_LOAD_HALF, 0, 0, 12),
        (_IF_EQUAL, 0, 6, 0x86DD),
        (_LOAD_BYTE, 0, 0, 20),
        (_IF_EQUAL, 0, 13, socket.IPPROTO_TCP),
        (_LOAD_HALF, 0, 0, 54),
        (_IF_EQUAL, 10, 0, port),
        (_LOAD_HALF, 0, 0, 56),
        (_IF_EQUAL, 8, 9, port),
        (_IF_EQUAL, 0, 8, 0x0800),
        (_LOAD_BYTE, 0, 0, 23),
        (_IF_EQUAL, 0, 6, socket.IPPROTO_TCP),
        (_LOAD_IHL, 0, 0, 14),
        (_LOAD_HALF_BEHIND_IHL, 0, 0, 14),
        (_IF_EQUAL, 2, 0, port),
        (_LOAD_HALF_BEHIND_IHL, 0, 0, 16),
        (_IF_EQUAL, 0, 1, port),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    ]
    return b"".join(_INSTRUCTION.pack(*row) for row in rows)
