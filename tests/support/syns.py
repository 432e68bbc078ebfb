"""SYNs made by hand and sent from inside a pod, past its own TCP: many, or by clients that are not there."""

from __future__ import annotations

import socket
import time

from agent.lab.topology import PodPlace
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
