"""The discovery stream: keeps one delta ADS stream to the control plane, and the state fed by it.

`wire.xds_delta` decides what is said; this file connects, reads, hands each response to `apply` and answers
it afterwards, and dials again however the stream ended, after a wait that `retry` names. Status is data.
Nothing leaves `run`: what raises while a response is dealt with is a defect of ours, which refuses that response, and
every agent would meet it alike, and again after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from agent.defects import DEFECT, Defects
from agent.pb.xds_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from agent.rpc.duplex import Duplex
from agent.rpc.endpoint import ControlError, Endpoint
from agent.rpc.retry import Retry, says_no
from agent.rpc.rpc_errors import explain
from agent.wire.xds_delta import Received, XdsDelta

log = logging.getLogger(__name__)
defects = Defects(log)

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
# A stream that answered and lived this long was a good one: the next failure is a first one again.
GOOD_STREAM_S = 15.0
SAY_AGAIN_S = 60.0
"""How often the same failure in a row is worth a line: tries come every second."""
# A server that has nothing new for us need not say so: a stream that it let stand for this long is one.
SILENT_S = 1.0
ANEW_S = 30.0
"""How often a stream is opened anew to ask again what it has answered already."""

Apply = Callable[[Received], Awaitable[Mapping[str, str]]]
"""Put a response into the state; answers name -> reason of what was refused. The ACK follows it."""


class Phase(Enum):
    WAITING = "waiting"
    CONNECTING = "connecting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class XdsStatus:
    """How the stream is doing. Times are seconds since the epoch."""

    phase: Phase = Phase.WAITING
    connected_since: float | None = None
    is_synced: bool = False
    last_error: str = ""
    last_error_at: float | None = None
    failures: int = 0
    next_attempt: float | None = None
    revision: str = ""
    nonce: str = ""
    responses: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def defect(self) -> str:
        """What is refused by a fault of our own; empty: nothing."""
        why = [f"{name}: {reason}" for name, reason in self.refused.items() if reason.startswith(DEFECT)]
        if not why:
            return ""
        count = "a resource" if len(why) == 1 else f"{len(why)} resources"
        return f"{count} of the control plane cannot be used, by {DEFECT}; please report it with the log ({why[0]})"


class StreamWatch(Protocol):
    """Counts for metrics (docs/WIRE.md#metrics)."""

    def message(self, type_url: str, body_bytes: int) -> None: ...

    def terminated(self, reason: str) -> None:
        """`ConnectionError`: no stream came about; `Error`: it broke; `Complete`: the server ended it."""
        ...


class NoWatch:
    def message(self, type_url: str, body_bytes: int) -> None:
        pass

    def terminated(self, reason: str) -> None:
        pass


class _Ended(Exception):
    """A stream's end: why, for people; the reason for the metric; and whether it will be the same at the next try."""

    def __init__(self, text: str, reason: str, *, is_no: bool = False) -> None:
        super().__init__(text)
        self.reason, self.is_no = reason, is_no


class _Anew(Exception):
    """Another stream is wanted, at once."""


class XdsClient:
    """One per agent. `run` until cancelled; `status` at any time; `synced` once the first state is whole."""

    def __init__(
        self,
        endpoint: Endpoint,
        protocol: XdsDelta,
        apply: Apply,
        *,
        clock: Callable[[], float],
        rng: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        watch: StreamWatch | None = None,
        on_up: Callable[[], None] = lambda: None,
        on_answer: Callable[[Sequence[str]], None] = lambda names: None,
        silent_s: float = SILENT_S,
    ) -> None:
        self._endpoint = endpoint
        self._protocol = protocol
        self._apply = apply
        self._clock = clock
        self._retry = Retry(rng)
        self._said_s = float("-inf")
        self._sleep = sleep
        self._watch = watch or NoWatch()
        self._on_up = on_up
        self._on_answer = on_answer
        self._stream_now: Duplex | None = None
        self._wants_anew = asyncio.Event()
        self._opened_anew_s = float("-inf")
        self._silent_s = silent_s
        self._status = XdsStatus()
        self.synced = asyncio.Event()

    @property
    def status(self) -> XdsStatus:
        return self._status

    def ask(self, names: Iterable[str]) -> None:
        """Ask what these are, by name or alias; `on_answer` hears of each once what was said is applied.

        A server answers a name once on a stream. To ask again takes another one, and that is not opened as often as
        somebody asks: meanwhile what it said last stands for the answer. Where it said nothing (too much was asked of
        it) there is none, and who waits is refused: without a word of the control plane nothing goes on in the clear.
        """
        for name in names:
            if not self._protocol.is_used_up(name):
                request = self._protocol.ask(name)
                if request is not None and self._stream_now is not None:
                    self._stream_now.send(request.SerializeToString())
            elif abs(self._clock() - self._opened_anew_s) >= ANEW_S or self._wants_anew.is_set():
                if not self._wants_anew.is_set():
                    self._opened_anew_s = self._clock()
                    self._wants_anew.set()
                self._protocol.ask(name)
            elif self._protocol.has_answered(name):
                self._on_answer((name,))

    async def run(self) -> None:
        """Stream, and stream again, until cancelled."""
        while True:
            self._note(phase=Phase.CONNECTING, next_attempt=None)
            try:
                await self._stream()
            except _Anew:
                continue
            except _Ended as end:
                delay_s = self._failed(end)
            await self._sleep(delay_s)

    async def _stream(self) -> None:
        """One stream from dial to end. Always raises: _Ended, or _Anew."""
        try:
            async with self._endpoint.open() as channel:
                stream = Duplex(channel, METHOD, self._endpoint.metadata())
                try:
                    await self._converse_on(channel, stream)
                finally:
                    self._stream_now = None
                    stream.close()
        except ControlError as error:
            raise _Ended(str(error), "ConnectionError") from error
        except (_Ended, _Anew):
            raise
        except Exception as error:
            text = f"control plane {self._endpoint.address}: the stream cannot go on"
            raise _Ended(f"{text}: {defects.note(text, error)}", "Error", is_no=True) from error

    async def _converse_on(self, channel: grpc.aio.Channel, stream: Duplex) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen_to_silence(channel), name="silent discovery stream")
                await self._converse(stream)
        except BaseExceptionGroup as ended:
            raise ended.exceptions[0] from None

    async def _listen_to_silence(self, channel: grpc.aio.Channel) -> None:
        """A server that refuses us ends the stream at once; one that does not has taken it."""
        while (state := channel.get_state()) is not grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
        await asyncio.sleep(self._silent_s)
        self._connected()

    async def _converse(self, stream: Duplex) -> None:
        self._wants_anew.clear()
        for request in self._protocol.open():
            stream.send(request.SerializeToString())
        self._stream_now = stream
        while True:
            response = await self._read(stream)
            received = self._protocol.receive(response)
            self._arrived(response, received)
            rejections = await self._put(received) if received.is_known else {}
            request = self._protocol.settle(received, rejections)
            self._settled(request)
            stream.send(request.SerializeToString())
            if received.answers:
                self._on_answer(sorted(received.answers))

    async def _put(self, received: Received) -> Mapping[str, str]:
        """Name -> reason of what was refused: all of it, by a defect."""
        try:
            return await self._apply(received)
        except Exception as error:  # noqa: BLE001 - told, and answered as the reason
            reason = defects.note(f"a response of type {received.type_url} cannot be applied", error)
            return dict.fromkeys((*(each.name for each in received.updates), *received.removed), reason)

    async def _receive(self, stream: Duplex) -> bytes | None:
        """The next message. Raises _Anew only here: what has arrived is applied whole."""
        if not self._protocol.is_on_demand:
            return await stream.receive()
        async with asyncio.TaskGroup() as either:
            reading = either.create_task(_outcome(stream))
            anew = either.create_task(self._wants_anew.wait())
            await asyncio.wait((reading, anew), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            anew.cancel()
        if reading.cancelled():
            raise _Anew
        outcome = reading.result()
        if isinstance(outcome, grpc.aio.AioRpcError):
            raise outcome
        return outcome

    async def _read(self, stream: Duplex) -> DeltaDiscoveryResponse:
        try:
            raw = await self._receive(stream)
        except grpc.aio.AioRpcError as error:
            reason = "Error" if self._status.phase is Phase.CONNECTED else "ConnectionError"
            raise _Ended(explain(error, self._endpoint), reason, is_no=says_no(error)) from None
        if raw is None:
            raise _Ended(f"control plane {self._endpoint.address}: it ended the stream", "Complete")
        try:
            return DeltaDiscoveryResponse.FromString(raw)
        except DecodeError as error:
            text = f"control plane {self._endpoint.address}: its response is not protobuf: {error}"
            raise _Ended(text, "Error", is_no=True) from error

    def _arrived(self, response: DeltaDiscoveryResponse, received: Received) -> None:
        self._connected()
        if not received.is_known:
            log.error("the control plane sent a type that was not asked for: %r", received.type_url)
        self._watch.message(received.type_url, sum(len(r.body) for r in received.updates))
        self._note(
            responses=self._status.responses + 1,
            nonce=response.nonce,
            revision=response.system_version_info or self._status.revision,
        )

    def _connected(self) -> None:
        if self._status.phase is not Phase.CONNECTED:
            log.info("discovery stream to %s is up", self._endpoint.address)
            self._note(phase=Phase.CONNECTED, connected_since=self._clock())
            self._on_up()

    def _settled(self, request: DeltaDiscoveryRequest) -> None:
        if request.HasField("error_detail"):
            log.warning("resources refused: %s", request.error_detail.message)
        if self._protocol.is_synced and not self.synced.is_set():
            log.info("the first complete state is there")
            self.synced.set()
        self._note(is_synced=self.synced.is_set(), refused=self._protocol.refused)

    def _failed(self, end: _Ended) -> float:
        """Note the end of a stream; seconds until the next."""
        now = self._clock()
        since = self._status.connected_since
        was_good = since is not None and now - since >= GOOD_STREAM_S
        failures = 1 if was_good else self._status.failures + 1
        if was_good:
            self._retry.succeeded()
        delay_s = self._retry.delay_s(is_no=end.is_no)
        self._watch.terminated(end.reason)
        is_news = failures == 1 or str(end) != self._status.last_error
        if is_news or abs(now - self._said_s) >= SAY_AGAIN_S:
            self._said_s = now
            log.warning("%s; %d in a row, next attempt in %.1f s", end, failures, delay_s)
        self._note(
            phase=Phase.WAITING,
            connected_since=None,
            last_error=str(end),
            last_error_at=now,
            failures=failures,
            next_attempt=now + delay_s,
        )
        return delay_s

    def _note(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]


async def _outcome(stream: Duplex) -> bytes | grpc.aio.AioRpcError | None:
    """A message, the end, or the error that it ended with."""
    try:
        return await stream.receive()
    except grpc.aio.AioRpcError as error:
        return error
