"""A control plane under the test's hand: real gRPC over real TLS on loopback, delta ADS and CA.

The test plays the server turn by turn: `stream = await plane.stream()`, `await stream.request()`,
`await stream.send(...)`, `stream.end(...)`. The CA answers with `plane.on_csr`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.pb import citadel_pb2, citadel_pb2_grpc, xds_pb2
from agent.rpc.endpoint import Endpoint
from tests.support.certs import HOUR, Issued, TestCA, pem

SERVER_NAME = "istiod.istio-system.svc"
PATIENCE_S = 60.0


class MeshCA(TestCA):
    """A TestCA that also makes server certificates with a DNS name, and signs requests like istiod."""

    def server(self, name: str = SERVER_NAME) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = self._builder(key.public_key(), now - HOUR, now + HOUR).add_extension(names, True)
        return Issued(key, [builder.sign(self._key, hashes.SHA256())])

    def certify(
        self, csr_pem: str, uri: str | None, *, not_before: float, not_after: float, is_for_us: bool = True
    ) -> list[str]:
        """A CA's answer: leaf, root. `is_for_us=False` puts another key into the leaf."""
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        if not is_for_us:
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        start, end = (datetime.fromtimestamp(t, UTC) for t in (not_before, not_after))
        builder = self._builder(key, start, end)
        for extension, critical in _usages():
            builder = builder.add_extension(extension, critical)
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer_key, False)
        if uri is not None:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
            builder = builder.add_extension(names, True)
        return [pem(builder.sign(self._key, hashes.SHA256())).decode(), self.root_pem.decode()]

    def _builder(self, key: object, start: datetime, end: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )


def _usages() -> list[tuple[x509.ExtensionType, bool]]:
    uses = dict.fromkeys(
        (
            "content_commitment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [
        (x509.KeyUsage(digital_signature=True, key_encipherment=True, **uses), True),
        (x509.ExtendedKeyUsage(both), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
    ]


class AdsStream:
    """One stream, seen from the server."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._requests: asyncio.Queue[xds_pb2.DeltaDiscoveryRequest] = asyncio.Queue()
        self._end: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        self.metadata = dict(context.invocation_metadata() or ())

    async def request(self) -> xds_pb2.DeltaDiscoveryRequest:
        async with asyncio.timeout(PATIENCE_S):
            return await self._requests.get()

    async def opening(self) -> dict[str, xds_pb2.DeltaDiscoveryRequest]:
        """The first request of each of the two types."""
        first, second = await self.request(), await self.request()
        return {first.type_url: first, second.type_url: second}

    async def send(
        self,
        type_url: str,
        resources: Iterable[tuple[str, str, bytes]] = (),
        removed: Iterable[str] = (),
        nonce: str = "n",
    ) -> None:
        await self._context.write(response(type_url, resources, removed, nonce))

    async def send_raw(self, body: bytes) -> None:
        """Bytes as they are, protobuf or not."""
        await self._context.write(body)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        self._end.set_result((code, details))

    async def serve(self, requests: object) -> None:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._collect(requests))
            code, details = await self._end
            reader.cancel()
        if code is not grpc.StatusCode.OK:
            await self._context.abort(code, details)

    async def _collect(self, requests: object) -> None:
        async for request in requests:
            self._requests.put_nowait(request)


def response(
    type_url: str,
    resources: Iterable[tuple[str, str, bytes]] = (),
    removed: Iterable[str] = (),
    nonce: str = "n",
) -> xds_pb2.DeltaDiscoveryResponse:
    """A response; resources are (name, version, body)."""
    message = xds_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=list(removed))
    for name, version, body in resources:
        resource = message.resources.add(name=name, version=version)
        resource.resource.type_url = type_url
        resource.resource.value = body
    return message


OnCsr = Callable[[citadel_pb2.IstioCertificateRequest, grpc.aio.ServicerContext], Awaitable[list[str]]]


class FakeControlPlane(citadel_pb2_grpc.IstioCertificateServiceServicer):
    """`async with` it. Refuses calls without `Bearer <token>`, as istiod does."""

    def __init__(
        self,
        ca: MeshCA,
        *,
        name: str = SERVER_NAME,
        token: str = "good-token",
        on_csr: OnCsr | None = None,
        port: int = 0,
    ) -> None:
        self.ca = ca
        self.token = token
        self.on_csr = on_csr
        self.ca_metadata: list[dict[str, str]] = []
        self._name = name
        self._port = port
        self._streams: asyncio.Queue[AdsStream] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeControlPlane:
        issued = self.ca.server(self._name)
        credentials = grpc.ssl_server_credentials([(issued.key_pem, issued.chain_pem)])
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self._ads(),))
        citadel_pb2_grpc.add_IstioCertificateServiceServicer_to_server(self, self._server)
        self._port = self._server.add_secure_port(self.address, credentials)
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self._server.stop(None)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def endpoint(self, tmp_path: Path, *, token: str | None = None, **changes: object) -> Endpoint:
        """What a client needs to reach it; files land in `tmp_path`."""
        roots, token_file = tmp_path / "root-cert.pem", tmp_path / "token"
        roots.write_bytes(self.ca.root_pem)
        token_file.write_text((self.token if token is None else token) + "\n")
        values = {
            "address": self.address,
            "roots": str(roots),
            "server_name": SERVER_NAME,
            "token_file": token_file,
            "cluster_id": "Kubernetes",
            **changes,
        }
        return Endpoint(**values)

    async def stream(self) -> AdsStream:
        """The next stream a client opens."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._streams.get()

    def _ads(self) -> grpc.GenericRpcHandler:
        """The discovery service, by hand: it can also send what is not protobuf."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve_stream,
            request_deserializer=xds_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        )
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        return grpc.method_handlers_generic_handler(service, {"DeltaAggregatedResources": handler})

    async def _serve_stream(self, requests: object, context: grpc.aio.ServicerContext) -> None:
        await self._admit(context)
        stream = AdsStream(context)
        self._streams.put_nowait(stream)
        await stream.serve(requests)

    async def _admit(self, context: grpc.aio.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata() or ())
        if metadata.get("authorization") != f"Bearer {self.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")

    async def CreateCertificate(
        self, request: citadel_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext
    ) -> citadel_pb2.IstioCertificateResponse:
        await self._admit(context)
        self.ca_metadata.append(dict(context.invocation_metadata() or ()))
        chain = await (self.on_csr or self._certify)(request, context)
        return citadel_pb2.IstioCertificateResponse(cert_chain=chain)

    async def _certify(
        self, request: citadel_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext
    ) -> list[str]:
        now = datetime.now(UTC)
        end = now + timedelta(seconds=request.validity_duration)
        return self.ca.certify(
            request.csr,
            request.metadata["ImpersonatedIdentity"],
            not_before=now.timestamp() - 120,
            not_after=end.timestamp(),
        )
