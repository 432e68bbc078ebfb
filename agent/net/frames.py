"""Sends single frames by the device that leads out of a private namespace; receives none.

A packet socket takes CAP_NET_RAW to be made, none to be used: it is made in the namespace by the thread that makes
sockets there, and reaches nothing but that namespace's devices, and so nothing that the programs at the other end of
the device do not let by.
"""

from __future__ import annotations

import errno
import socket

SOL_PACKET = 263
PACKET_VNET_HDR, PACKET_QDISC_BYPASS = 15, 20
_DEVICE_GONE = (errno.ENXIO, errno.ENODEV, errno.ENETDOWN)


class FrameSender:
    """Frames with a struct virtio_net_hdr in front, by one device. Make it in the device's namespace."""

    def __init__(self, ifname: str) -> None:
        """Raises OSError."""
        self._ifname = ifname
        # Protocol 0: nothing is delivered to it.
        self._sock = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
        )
        self.lost = 0
        """Frames that the device did not take."""
        try:
            self._sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self._sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
            self._bind()
        except OSError:
            self._sock.close()
            raise

    def send(self, frame: bytes) -> bool:
        """Whether the device took it. One that did not is counted: the network may lose frames, too."""
        try:
            self._sock.send(frame)
        except OSError as error:
            if error.errno in _DEVICE_GONE and self._is_bound_anew():
                return self.send(frame)
            self.lost += 1
            return False
        return True

    def close(self) -> None:
        self._sock.close()

    def _bind(self) -> None:
        self._sock.bind((self._ifname, 0))
        self.mac: bytes = self._sock.getsockname()[4]
        """Of the device."""

    def _is_bound_anew(self) -> bool:
        """The device may have been made again since, under the same name. Whether it is another now."""
        before = self._sock.getsockname()
        try:
            self._bind()
        except OSError:
            return False
        return bool(self._sock.getsockname() != before)
