"""`ztun.v1.Manifests`: an agent follows what is wrong with the manifests and concerns its node.

A stream of whole sets, the newest at once: what is over disappears by itself. A stock ztunnel never calls it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from agent.controlplane.serve.access import Code, Refused
from agent.controlplane.serve.concerns import Concern, Concerns
from agent.controlplane.serve.publisher import Publisher
from agent.controlplane.serve.xds_service import Authenticate
from agent.pb import ztun_pb2 as ztun

SERVICE = "ztun.v1.Manifests"

log = logging.getLogger(__name__)


class ManifestsService:
    """Tells every authenticated node what concerns it."""

    def __init__(self, concerns: Concerns, publisher: Publisher, authenticate: Authenticate) -> None:
        self._concerns, self._publisher, self._authenticate = concerns, publisher, authenticate

    def handler(self) -> Any:
        method = grpc.unary_stream_rpc_method_handler(
            self._follow,
            request_deserializer=ztun.FollowRequest.FromString,
            response_serializer=ztun.Findings.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Follow": method})

    async def _follow(self, request: ztun.FollowRequest, context: Any) -> AsyncIterator[ztun.Findings]:
        try:
            async for findings in self._findings(await self._authenticate(context), request):
                yield findings
        except Refused as refusal:
            if not self._publisher.is_closing:
                log.warning("findings for %s refused: %s", context.peer(), refusal)
            await context.abort(grpc.StatusCode[refusal.code.name], str(refusal))

    async def _findings(self, node: str, request: ztun.FollowRequest) -> AsyncIterator[ztun.Findings]:
        if request.node != node:
            raise Refused(
                Code.PERMISSION_DENIED, f"the token is of node {node!r}; it may not ask for {request.node!r}"
            )
        told: tuple[Concern, ...] | None = None
        with self._concerns.bell.listen() as changed:
            while not self._publisher.is_closing:
                concerns = self._concerns.of_node(node)
                if concerns != told:
                    told = concerns
                    yield ztun.Findings(
                        findings=[ztun.Finding(pod=c.pod, reason=c.reason, remedy=c.remedy) for c in concerns]
                    )
                await changed.wait()
                changed.clear()
        raise Refused(Code.UNAVAILABLE, "the control plane is stopping")
