"""One bidirectional gRPC call: messages out, messages in, and the status it ended with.

Exists for that status. In grpcio (seen in 1.85) a write that meets a stream which the server has just ended
sets the call's status to INTERNAL "Internal error from Core", before or after the server's own status is
set; a wrong token would be reported as that. So the first status is noted the moment it is set, and where it
is the wrong one, the other is waited for, with a read always under way: without one it never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc
import grpc.aio

CORE_ERROR = (grpc.StatusCode.INTERNAL, "Internal error from Core")
STATUS_POLLS = 100
STATUS_POLL_S = 0.01

Status = tuple[grpc.StatusCode, str]


class Duplex:
    """A call on an open channel. `close` it when done, also after an error; the channel ends the rest."""

    def __init__(self, channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]) -> None:
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._first_status: Status | None = None
        self._call = channel.stream_stream(method)(self._drained(), metadata=metadata)
        self._call.add_done_callback(self._note_status)

    def send(self, message: bytes) -> None:
        """Queue a message; what cannot be delivered shows in `receive`."""
        self._outbox.put_nowait(message)

    async def receive(self) -> bytes | None:
        """The next message; None: the server ended the stream in order. Raises AioRpcError: it broke."""
        try:
            raw = await self._call.read()
        except grpc.aio.AioRpcError:
            raw = grpc.aio.EOF
        if raw is not grpc.aio.EOF:
            return bytes(raw)
        code, details = await self._status()
        if code is grpc.StatusCode.OK:
            return None
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)

    def close(self) -> None:
        """End the writer."""
        self._outbox.put_nowait(None)

    async def _drained(self) -> AsyncIterator[bytes]:
        while (message := await self._outbox.get()) is not None:
            yield message

    def _note_status(self, call: grpc.aio.StreamStreamCall) -> None:
        self._first_status = _result(call.code()), _result(call.details()) or ""

    async def _status(self) -> Status:
        if self._first_status not in (None, CORE_ERROR):
            return self._first_status
        for _ in range(STATUS_POLLS):
            status = await self._call.code(), await self._call.details() or ""
            if status != CORE_ERROR:
                return status
            await asyncio.sleep(STATUS_POLL_S)
        return CORE_ERROR


def _result(finished: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine answers that has nothing to wait for: the status is set when this is called."""
    try:
        finished.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("grpc reported the end of a call before its status was set")
