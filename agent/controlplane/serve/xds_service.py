"""Delta ADS over gRPC: one coroutine per stream that moves requests into its Session and its answers out.

The wire is istiod's (docs/WIRE.md#discovery); what is sent when is decided in `xds_session`. Handlers are
registered by hand from the generated messages, because generated servicers have no types.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from agent.controlplane.serve.access import Code, Refused
from agent.controlplane.serve.hearing import Hearing
from agent.controlplane.serve.publisher import Publisher
from agent.controlplane.serve.status import StatusBoard
from agent.controlplane.serve.turns import Turn, Turns
from agent.controlplane.serve.xds_session import Nack, Session
from agent.controlplane.translate.resources import ADDRESS_TYPE
from agent.pb import xds_pb2 as xds

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
POLICY_GRACE_S = 0.5
"""How long addresses wait for a client to subscribe to policies too; both are asked for in one go by proxies."""

log = logging.getLogger(__name__)
Authenticate = Callable[[Any], Awaitable[str]]
"""gRPC context -> node; raises Refused."""


class StreamEnded(Exception):
    """The stream is over: its client has closed its half, or asked for what is refused."""

    def __init__(self, refusal: Refused | None = None) -> None:
        super().__init__()
        self.refusal = refusal


class DiscoveryService:
    """Serves the publisher's state to every authenticated node; every node gets the whole mesh."""

    def __init__(
        self,
        publisher: Publisher,
        board: StatusBoard,
        authenticate: Authenticate,
        hearing: Hearing,
        policy_grace_s: float = POLICY_GRACE_S,
    ) -> None:
        self._publisher, self._board = publisher, board
        self._authenticate, self._policy_grace_s = authenticate, policy_grace_s
        self._hearing = hearing
        self._turns = Turns()

    def handler(self) -> Any:
        method = grpc.stream_stream_rpc_method_handler(
            self._delta,
            request_deserializer=xds.DeltaDiscoveryRequest.FromString,
            response_serializer=xds.DeltaDiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method})

    async def _delta(self, _requests: object, context: Any) -> None:
        try:
            node = await self._authenticate(context)
            self._publisher.current()
            await self._stream(node, context)
        except Refused as refusal:
            if not self._publisher.is_closing:
                log.warning("discovery for %s refused: %s", context.peer(), refusal)
            await context.abort(grpc.StatusCode[refusal.code.name], str(refusal))

    async def _stream(self, node: str, context: Any) -> None:
        self._board.connected(node)
        log.info("node %s: discovery stream from %s", node, context.peer())
        refusal: Refused | None = None
        try:
            with self._publisher.bell.listen() as wake, self._turns.place(wake) as turn:
                session = Session(node, self._hearing.is_awaited)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(node, session, wake, context))
                    tasks.create_task(self._write(session, wake, turn, context))
        except* StreamEnded as ended:
            refusal = next((e.refusal for e in ended.exceptions if isinstance(e, StreamEnded)), None)
        finally:
            self._board.disconnected(node)
            log.info("node %s: discovery stream closed", node)
        if refusal is not None:
            raise refusal

    async def _read(self, node: str, session: Session, wake: asyncio.Event, context: Any) -> None:
        grace = _Grace(self._policy_grace_s, session, wake)
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                self._note(node, request, session.receive(request))
                if request.initial_resource_versions:
                    self._hearing.came_back()
                if request.type_url == ADDRESS_TYPE:
                    grace.begin()
                wake.set()
        except Refused as refusal:
            raise StreamEnded(refusal) from refusal
        finally:
            grace.end()
        raise StreamEnded

    def _note(self, node: str, request: xds.DeltaDiscoveryRequest, nack: Nack | None) -> None:
        if nack:
            log.warning("node %s refused %s: %s", node, ", ".join(nack.names), nack.reason)
            self._board.refused(node, nack.type_url, nack.names, nack.reason)
        elif request.response_nonce:
            self._board.accepted(node, request.type_url)

    async def _write(self, session: Session, wake: asyncio.Event, turn: Turn, context: Any) -> None:
        while True:
            await wake.wait()
            wake.clear()
            if self._publisher.is_closing:
                raise StreamEnded(Refused(Code.UNAVAILABLE, "the control plane is stopping"))
            snapshot = self._publisher.current().snapshot
            responses = session.step(snapshot, self._publisher.archive, has_turn=turn.is_here)
            if session.waits_for_turn:
                turn.ask()
            try:
                for response in responses:
                    await context.write(response)
            except grpc.aio.InternalError as error:
                raise StreamEnded from error  # its client is gone
            del responses
            if not session.waits_for_turn:
                turn.end()


class _Grace:
    """Lets addresses go without policies, some time after they were first asked for."""

    def __init__(self, seconds: float, session: Session, wake: asyncio.Event) -> None:
        self._seconds, self._session, self._wake = seconds, session, wake
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._over)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _over(self) -> None:
        self._session.release_addresses()
        self._wake.set()
