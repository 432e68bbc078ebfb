"""Datagrams of pods that were meant for somebody else: read with that one's address, answered in its name.

The socket is `net.sockets.open_datagrams`. One socket has both families, IPv4 as mapped addresses.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable

from agent.model.address import IP, SockName, ip_from_bytes, parse_ip
from agent.net.fair_queue import FairQueue
from agent.net.loop import Loop
from agent.net.sockets import IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR, SO_RXQ_OVFL

IP_PKTINFO, IPV6_PKTINFO = 8, 50
MOST_BYTES = 4096
"""Of a query; a longer one is none."""
BATCH, READ_BATCH = 64, 256
"""So many are handed on in a row, then others have their turn; more are read, so that whoever sends most does not fill
the queue of the socket, which pods share."""
MOST_OF_A_POD = 1024
"""Of its datagrams wait here, and the rest is lost: no fewer than the kernel lets through at once (DNS_BURST)."""
_ANCILLARY_BYTES = 128
_INTERFACE = struct.pack("=I", 0)
_COUNT = struct.Struct("=I")
_MAPPED = bytes(10) + b"\xff\xff"

OnDatagram = Callable[[bytes, IP, SockName, IP], None]
"""What came, who sent it: its address, and that with its port as the socket has it; and to whom."""


class DatagramDoor:
    """Reads from `start` on and answers, until it is closed. The socket belongs to it.

    Pods take turns. `on_lost`: so many more had no room, in the socket's queue or among the pod's own that wait.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, on_datagram: OnDatagram, on_lost: Callable[[int], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_datagram = on_datagram
        self._on_lost = on_lost
        self._lost = 0
        self._waiting: FairQueue[tuple[bytes, SockName, IP]] = FairQueue(MOST_OF_A_POD)
        self._is_due = False
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
            self._waiting.clear()
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
        for _ in range(READ_BATCH):
            if self._sock.fileno() < 0:
                return
            try:
                data, ancillary, flags, peer = self._sock.recvmsg(MOST_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue  # an error that an earlier answer met
            if len(ancillary) > 1:
                self._note_lost(ancillary)
            meant_for = _meant_for(ancillary)
            if meant_for is None or flags & socket.MSG_TRUNC:
                continue
            if not self._waiting.put(peer[0], (data, peer, meant_for)):
                self._on_lost(1)
        self._hand_on()

    def _hand_on(self) -> None:
        for _ in range(BATCH):
            if not self._waiting:
                return
            data, peer, meant_for = self._waiting.take()
            self._on_datagram(data, parse_ip(peer[0].partition("%")[0]), peer, meant_for)
        if self._waiting and not self._is_due:
            self._is_due = True
            self._loop.soon(self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        self._hand_on()

    def _note_lost(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """The kernel says how many there were ever, and nothing while there were none."""
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                (lost,) = _COUNT.unpack(data)
                if lost != self._lost:
                    self._on_lost((lost - self._lost) % (1 << 32))
                    self._lost = lost


def _meant_for(ancillary: list[tuple[int, int, bytes]]) -> IP | None:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_RECVORIGDSTADDR:
            return ip_from_bytes(data[4:8])
        if level == socket.IPPROTO_IPV6 and kind == IPV6_RECVORIGDSTADDR:
            return ip_from_bytes(data[8:24])
    return None
