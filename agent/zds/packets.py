"""The socket of istio-cni: whole packets with the descriptors that came along. Nothing of what is in them.

Whoever receives a packet owns its descriptors: each is taken out of it, or closed with it, also those of packets that
are cut or that nobody understands.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from types import TracebackType

from agent.wire.zds import PACKET_BYTES

MAX_FDS = 253
"""What one sendmsg(2) passes: SCM_MAX_FD of the kernel."""
_CREDENTIALS = struct.Struct("=iII")


class Packet:
    """`is_cut`: the kernel could not hand over all of it. Use it in a `with`, which closes what was not taken."""

    def __init__(self, data: bytes, fds: list[int], *, is_cut: bool = False) -> None:
        self.data = data
        self.is_cut = is_cut
        self._fds = fds

    @property
    def descriptors(self) -> int:
        return len(self._fds)

    def take(self) -> int:
        """The first descriptor; it is the caller's from now on."""
        return self._fds.pop(0)

    def __enter__(self) -> Packet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        while self._fds:
            os.close(self._fds.pop())


class PacketSocket:
    """One connection. Raises OSError for all that fails."""

    def __init__(self, path: str) -> None:
        """Connect. A process that is not root's is refused: it would say who is to be captured."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._sock.setblocking(False)
            self._sock.connect(path)
            raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            _, uid, _ = _CREDENTIALS.unpack(raw)
            if uid != 0:
                raise PermissionError(f"a process of user {uid} listens there, not one of root")
        except BaseException:
            self._sock.close()
            raise

    def send(self, packet: bytes) -> None:
        self._sock.send(packet)

    async def receive(self) -> Packet | None:
        """The next packet; None: the other end has closed."""
        while True:
            try:
                return self._receive_now()
            except BlockingIOError:
                await self._readable()

    def close(self) -> None:
        self._sock.close()

    def _receive_now(self) -> Packet | None:
        fds = array.array("i")
        room = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
        data, ancillary, flags, _ = self._sock.recvmsg(PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        is_cut = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
        packet = Packet(data, list(fds), is_cut=is_cut)
        if data:
            return packet
        with packet:
            return None

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._sock, _tell, heard)
        try:
            await heard
        finally:
            loop.remove_reader(self._sock)


def _tell(heard: asyncio.Future[None]) -> None:
    if not heard.done():
        heard.set_result(None)
