"""Certificates from an Istio CA over gRPC: `identity.signer.Signer` for the keeper (docs/WIRE.md#ca).

Keeps one channel and replaces it when the file of the roots is replaced; calls under way finish on the old
one. What the answer holds is not looked at here (`identity.bundle` does), nor is anything retried (the
keeper does).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from agent.identity.signer import SigningError
from agent.model.identity import Identity
from agent.pb.citadel_pb2 import IstioCertificateRequest, IstioCertificateResponse
from agent.rpc.endpoint import ControlError, Endpoint
from agent.rpc.rpc_errors import explain, is_transient

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DEADLINE_S = 10.0


@dataclass(slots=True, eq=False)
class _Line:
    """A channel, the roots it was opened with, and the calls that use it."""

    channel: grpc.aio.Channel
    roots_mark: object
    calls: int = 0


class CaClient:
    """One per agent; `async with` it, or `close` it. `lifetime_s` is what certificates are asked for."""

    def __init__(self, endpoint: Endpoint, *, lifetime_s: int, deadline_s: float = DEADLINE_S) -> None:
        self._endpoint = endpoint
        self._lifetime_s = lifetime_s
        self._deadline_s = deadline_s
        self._line: _Line | None = None

    async def __aenter__(self) -> CaClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel. Not before the keeper has stopped: a call under way would end as cancelled."""
        line, self._line = self._line, None
        if line is not None:
            await line.channel.close()

    async def sign(self, identity: Identity, csr_pem: str) -> tuple[str, ...]:
        """The CA's chain for `identity`, unchecked. Raises SigningError, at the latest at the deadline."""
        request = IstioCertificateRequest(csr=csr_pem, validity_duration=self._lifetime_s)
        request.metadata.update({"ImpersonatedIdentity": str(identity)})
        try:
            raw = await self._call(request.SerializeToString())
        except ControlError as error:
            raise SigningError(str(error)) from error
        except grpc.aio.AioRpcError as error:
            text = f"{identity}: {explain(error, self._endpoint, 'CA')}"
            raise SigningError(text, is_transient=is_transient(error)) from error
        try:
            return tuple(IstioCertificateResponse.FromString(raw).cert_chain)
        except DecodeError as error:
            text = f"CA {self._endpoint.address}: its answer for {identity} is not protobuf"
            raise SigningError(text) from error

    async def _call(self, request: bytes) -> bytes:
        metadata = self._endpoint.metadata()
        line, retired = self._current_line()
        # Counted before the first await: an idle line that is not the current one gets closed.
        line.calls += 1
        try:
            if retired is not None:
                await retired.channel.close()
            answer: bytes = await line.channel.unary_unary(METHOD)(
                request, metadata=metadata, timeout=self._deadline_s
            )
        finally:
            line.calls -= 1
            if line is not self._line and not line.calls:
                await line.channel.close()
        return answer

    def _current_line(self) -> tuple[_Line, _Line | None]:
        """The channel for the roots as they are now, and the one before it if nothing uses that any more.

        Roots that cannot be read leave the old channel in place; the next call looks again.
        """
        old, mark = self._line, self._endpoint.roots_mark()
        if old is not None and old.roots_mark == mark:
            return old, None
        try:
            self._line = _Line(self._endpoint.open(), mark)
        except ControlError:
            if old is None:
                raise
            return old, None
        return self._line, old if old is not None and not old.calls else None
