"""One end of the socket between control and worker: frames of `agent.channel`, with fds beside them."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from itertools import chain, count

from agent.channel import MAX_FDS, MAX_FRAME_BYTES, PREFIX, ChannelError, Message, decode, encode
from agent.fd_limit import with_reserve

READ_BYTES = 1 << 16


class Channel:
    """One end of the socket, non-blocking: call `receive` when readable and `flush` when writable."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._incoming = bytearray()
        self._fds: deque[list[int]] = deque()
        """Those of each frame that came with some, in their order; fewer than were sent where some were lost."""
        self._outgoing: deque[tuple[memoryview, tuple[int, ...]]] = deque()

    @property
    def wants_write(self) -> bool:
        return bool(self._outgoing)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue a message and send what the socket takes now. The fds, at most MAX_FDS, stay the caller's."""
        # dup: the frame may leave later than the caller closes its own.
        with with_reserve() if fds else nullcontext():
            held = tuple(socket.dup(fd) for fd in fds)
        self._outgoing.append((memoryview(encode(message, len(held))), held))
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes. Raises ChannelError when the other end is gone."""
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                sent = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise ChannelError(f"the other end of the worker channel is gone: {error}") from error
            for fd in fds:
                socket.close(fd)
            self._outgoing.popleft()
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], ()))

    def receive(self, most_reads: int | None = None) -> list[tuple[Message, list[int]]]:
        """Everything complete that has arrived, each with its fds. Raises ChannelError at the end.

        With `most_reads` no more than comes with that many (of READ_BYTES): the socket stays readable if more is there.
        A message whose fds were lost, all or some, comes with those that arrived: compare with what it names.
        """
        with with_reserve():
            return self._receive(most_reads)

    def _receive(self, most_reads: int | None) -> list[tuple[Message, list[int]]]:
        messages: list[tuple[Message, list[int]]] = []
        for _ in count() if most_reads is None else range(most_reads):
            try:
                data, fds, flags, _ = socket.recv_fds(self.sock, READ_BYTES, MAX_FDS)
            except (BlockingIOError, InterruptedError):
                return messages
            except OSError as error:
                # A reset: the other end died with something unread. What it had said counts all the same.
                if messages:
                    return messages
                raise ChannelError(f"the worker channel broke: {error}") from error
            # One read never crosses from the fds of one frame to those of the next.
            if fds or flags & socket.MSG_CTRUNC:
                self._fds.append(fds)
            if not data:
                if messages:
                    return messages
                raise ChannelError("the other end closed the worker channel")
            self._incoming += data
            messages.extend(self._take_frames())
        return messages

    def _take_frames(self) -> list[tuple[Message, list[int]]]:
        messages = []
        while len(self._incoming) >= PREFIX.size:
            size, fd_count = PREFIX.unpack_from(self._incoming)
            if size > MAX_FRAME_BYTES:
                raise ChannelError(f"a frame of {size} bytes on the worker channel")
            end = PREFIX.size + size
            if len(self._incoming) < end:
                break
            message = decode(bytes(self._incoming[PREFIX.size : end]))
            del self._incoming[:end]
            if fd_count and not self._fds:
                raise ChannelError(f"{type(message).__name__} came with 0 fds instead of {fd_count}")
            messages.append((message, self._fds.popleft() if fd_count else []))
        return messages

    def break_off(self) -> None:
        """Send nothing more; what has arrived can still be received, and then the end."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for _, fds in self._outgoing:
            for fd in fds:
                socket.close(fd)
        for fd in chain.from_iterable(self._fds):
            socket.close(fd)
        self._outgoing.clear()
        self._fds.clear()
        self.sock.close()
