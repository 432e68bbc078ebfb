"""Listens on a link inside a node's namespace and says what its packets reveal.

The socket is opened inside the namespace and read by a thread until the capture ends; judging the frames is
`segments`' job. Used by the quickstart and the tests to show that traffic between nodes is encrypted.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType

from agent.lab.segments import Classifier, Report
from agent.lab.wiring import UPLINK
from agent.model.listener import HBONE
from redirect.netns import entered

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_STATISTICS = 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 64 << 20
FRAME_LIMIT = 256 * 1024


class LinkCapture:
    """`with LinkCapture(node.netns, b"marker") as capture: ...` then `capture.report()`."""

    def __init__(self, netns: Path, marker: bytes, *, ifname: str = UPLINK, port: int = HBONE.port) -> None:
        self._netns = netns
        self._ifname = ifname
        self._classifier = Classifier(marker, port)
        self._is_ending = threading.Event()
        self._dropped = 0

    def __enter__(self) -> LinkCapture:
        with entered(self._netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
                self._socket.bind((self._ifname, ETH_P_ALL))
            except OSError:
                self._socket.close()
                raise
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending.set()
        self._thread.join()
        # struct tpacket_stats: packets, drops
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self._dropped = struct.unpack("=II", statistics)[1]
        self._socket.close()

    def report(self) -> Report:
        """What was seen; complete once the capture has ended."""
        report = self._classifier.report()
        report.dropped = self._dropped
        return report

    def _run(self) -> None:
        """Reads until asked to end and nothing is left to read."""
        while True:
            is_ending = self._is_ending.is_set()
            readable, _, _ = select.select([self._socket], [], [], 0 if is_ending else 0.05)
            if readable:
                self._classifier.frame(self._socket.recv(FRAME_LIMIT))
            elif is_ending:
                return
