"""Istio's certificate service over gRPC: who asks, may they, sign (docs/WIRE.md#ca)."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from agent.controlplane.serve.access import Refused, granted_identity
from agent.controlplane.serve.ca import Authority, Clock
from agent.controlplane.serve.publisher import Publisher
from agent.controlplane.serve.xds_service import Authenticate
from agent.pb import citadel_pb2 as citadel

SERVICE = "istio.v1.auth.IstioCertificateService"
IDENTITY_KEY = "ImpersonatedIdentity"

log = logging.getLogger(__name__)


class CertificateService:
    """Issues certificates for identities of pods on the caller's node."""

    def __init__(
        self, authority: Authority, publisher: Publisher, authenticate: Authenticate, clock: Clock
    ) -> None:
        self._authority, self._publisher = authority, publisher
        self._authenticate, self._clock = authenticate, clock

    def handler(self) -> Any:
        method = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=citadel.IstioCertificateRequest.FromString,
            response_serializer=citadel.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})

    async def _create(
        self, request: citadel.IstioCertificateRequest, context: Any
    ) -> citadel.IstioCertificateResponse:
        try:
            return self._answer(await self._authenticate(context), request)
        except Refused as refusal:
            log.warning("certificate for %s refused: %s", context.peer(), refusal)
            await context.abort(grpc.StatusCode[refusal.code.name], str(refusal))
            raise  # abort has raised already

    def _answer(
        self, node: str, request: citadel.IstioCertificateRequest
    ) -> citadel.IstioCertificateResponse:
        state = self._publisher.current()
        fields = request.metadata.fields
        asked = fields[IDENTITY_KEY].string_value if IDENTITY_KEY in fields else ""
        identity = granted_identity(node, asked, state.inventory, state.trust_domain)
        chain = self._authority.sign(request.csr, str(identity), request.validity_duration, self._clock())
        log.info("node %s: issued a certificate for %s", node, identity)
        return citadel.IstioCertificateResponse(cert_chain=chain)
