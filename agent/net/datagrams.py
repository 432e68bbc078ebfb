"""Datagrams of pods that were meant for somebody else: read with that one's address, answered in its name.

The socket is `net.sockets.open_datagrams`. One socket has both families, IPv4 as mapped addresses.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable

from agent.model.address import IP, SockName, ip_from_bytes, parse_ip
from agent.net.loop import Loop
from agent.net.sockets import IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR

IP_PKTINFO, IPV6_PKTINFO = 8, 50
MOST_BYTES = 4096
"""Of a query; a longer one is none."""
BATCH = 64
"""So many in a row, then others have their turn."""
_ANCILLARY_BYTES = 128
_INTERFACE = struct.pack("=I", 0)
_MAPPED = bytes(10) + b"\xff\xff"

OnDatagram = Callable[[bytes, IP, SockName, IP], None]
"""What came, who sent it: its address, and that with its port as the socket has it; and to whom."""


class DatagramDoor:
    """Reads from `start` on and answers, until it is closed. The socket belongs to it."""

    def __init__(self, loop: Loop, sock: socket.socket, on_datagram: OnDatagram) -> None:
        self._loop = loop
        self._sock = sock
        self._on_datagram = on_datagram
        self._is_v6 = sock.family == socket.AF_INET6

    def start(self) -> None:
        # Level-triggered: what a batch leaves is announced again.
        self._loop.watch(self._sock.fileno(), self._on_ready, mask=select.EPOLLIN)

    def stop(self) -> None:
        """Read no more; what was read may still be answered."""
        self._loop.forget(self._sock.fileno())

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self.stop()
            self._sock.close()

    def answer(self, data: bytes, to: SockName, sender: IP) -> bool:
        """Send in the name of `sender`, from the port of the socket; whether the kernel took it.

        It does not where its queue is full, or the pod has gone: a lost datagram, which whoever waits asks for again.
        """
        packed = sender.packed
        if self._is_v6:
            source = packed if len(packed) == 16 else _MAPPED + packed
            named = (socket.IPPROTO_IPV6, IPV6_PKTINFO, source + _INTERFACE)
        else:
            named = (socket.IPPROTO_IP, IP_PKTINFO, _INTERFACE + packed + bytes(4))
        try:
            self._sock.sendmsg([data], [named], 0, to)
        except OSError:
            return False
        return True

    def _on_ready(self, mask: int) -> None:
        for _ in range(BATCH):
            if self._sock.fileno() < 0:
                return
            try:
                data, ancillary, flags, peer = self._sock.recvmsg(MOST_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that an earlier answer met
            meant_for = _meant_for(ancillary)
            if meant_for is not None and not flags & socket.MSG_TRUNC:
                self._on_datagram(data, parse_ip(peer[0].partition("%")[0]), peer, meant_for)


def _meant_for(ancillary: list[tuple[int, int, bytes]]) -> IP | None:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_RECVORIGDSTADDR:
            return ip_from_bytes(data[4:8])
        if level == socket.IPPROTO_IPV6 and kind == IPV6_RECVORIGDSTADDR:
            return ip_from_bytes(data[8:24])
    return None
