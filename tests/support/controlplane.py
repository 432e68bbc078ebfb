"""A real control plane on loopback with real files, and a client that speaks delta ADS to it turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct

from agent.controlplane.app import ControlPlane, Options
from agent.controlplane.serve import tokens
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.pb import citadel_pb2, xds_pb2, ztun_pb2

LIMIT_S = 10.0
"""How long a test waits for what must come."""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n"


def pod(
    name: str, node: str, ip: str, account: str = "web", labels: str = "app: web", ns: str = "demo"
) -> str:
    return f"""---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {ns}, labels: {{{labels}}}}}
spec: {{nodeName: {node}, serviceAccountName: {account}}}
status: {{podIPs: [{{ip: "{ip}"}}]}}
"""


def deny(name: str, selector: str = "", rules: str = "[{}]", ns: str = "demo", action: str = "DENY") -> str:
    chosen = f"selector: {{matchLabels: {{{selector}}}}}, " if selector else ""
    return f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {ns}}}
spec: {{{chosen}action: {action}, rules: {rules}}}
"""


class Plane:
    """A running control plane and its two directories."""

    def __init__(self, plane: ControlPlane, manifests: Path, state: Path) -> None:
        self.plane, self.manifests, self.state = plane, manifests, state

    def write(self, name: str, text: str) -> None:
        """Replace a manifest the way editors and kubectl do: at once."""
        draft = self.manifests / f".{name}.new"
        draft.write_text(text)
        draft.replace(self.manifests / name)

    def token(self, node: str) -> str:
        path = self.state / "tokens" / node
        return (path if path.exists() else tokens.issue(self.state, node)).read_text().strip()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        credentials = grpc.ssl_channel_credentials((self.state / "root.pem").read_bytes())
        options = [("grpc.ssl_target_name_override", "istiod.istio-system.svc")]
        async with grpc.aio.secure_channel(self.plane.address, credentials, options) as channel:
            yield channel

    @asynccontextmanager
    async def client(self, node: str = "node-a", token: str | None = None) -> AsyncIterator[Client]:
        async with self.channel() as channel:
            call = channel.stream_stream(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
                request_serializer=xds_pb2.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=xds_pb2.DeltaDiscoveryResponse.FromString,
            )(metadata=bearer(self.token(node) if token is None else token))
            try:
                yield Client(call)
            finally:
                call.cancel()

    async def certificate(self, node: str, identity: str | None, csr: str, **more: Any) -> list[str]:
        metadata = Struct()
        if identity is not None:
            metadata.update({"ImpersonatedIdentity": identity})
        request = citadel_pb2.IstioCertificateRequest(
            csr=csr, validity_duration=more.get("ttl_s", 3600), metadata=metadata
        )
        headers = bearer(more.get("token") or self.token(node)) if more.get("token") != "" else ()
        async with self.channel() as channel:
            answer = await channel.unary_unary(
                "/istio.v1.auth.IstioCertificateService/CreateCertificate",
                request_serializer=citadel_pb2.IstioCertificateRequest.SerializeToString,
                response_deserializer=citadel_pb2.IstioCertificateResponse.FromString,
            )(request, metadata=(*headers, *more.get("headers", ())), timeout=LIMIT_S)
        return list(answer.cert_chain)

    async def report(self, token_of: str, node: str, *pods: str) -> list[str]:
        entries = [ztun_pb2.EnrolledPod(namespace=p.split("/")[0], name=p.split("/")[1]) for p in pods]
        async with self.channel() as channel:
            reply = await channel.unary_unary(
                "/ztun.v1.Enrolment/Report",
                request_serializer=ztun_pb2.EnrolledReport.SerializeToString,
                response_deserializer=ztun_pb2.EnrolledReply.FromString,
            )(
                ztun_pb2.EnrolledReport(node=node, pods=entries),
                metadata=bearer(self.token(token_of)),
                timeout=LIMIT_S,
            )
        return list(reply.unknown)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


class Client:
    """One stream. Nothing is acked unless the test says so."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def subscribe(
        self,
        type_url: str,
        versions: Mapping[str, str] | None = None,
        names: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        await self.call.write(
            xds_pb2.DeltaDiscoveryRequest(
                type_url=type_url,
                initial_resource_versions=versions or {},
                resource_names_subscribe=names,
                **more,
            )
        )

    async def receive(self, type_url: str | None = None) -> xds_pb2.DeltaDiscoveryResponse:
        response = await asyncio.wait_for(self.call.read(), LIMIT_S)
        if response is grpc.aio.EOF:
            raise AssertionError(f"stream ended: {await self.call.code()} {await self.call.details()}")
        if type_url:
            assert response.type_url == type_url, response
        return response

    async def ack(self, response: xds_pb2.DeltaDiscoveryResponse, error: str = "") -> None:
        request = xds_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if error:
            request.error_detail.message = error
        await self.call.write(request)

    async def take(self, type_url: str) -> xds_pb2.DeltaDiscoveryResponse:
        response = await self.receive(type_url)
        await self.ack(response)
        return response

    async def start(self) -> tuple[dict[str, str], dict[str, str]]:
        """Both subscriptions from nothing; returns the versions of addresses and policies."""
        await self.subscribe(ADDRESS_TYPE)
        await self.subscribe(AUTHORIZATION_TYPE)
        policies = await self.take(AUTHORIZATION_TYPE)
        addresses = await self.take(ADDRESS_TYPE)
        return versions(addresses), versions(policies)


def versions(response: xds_pb2.DeltaDiscoveryResponse) -> dict[str, str]:
    return {resource.name: resource.version for resource in response.resources}


@asynccontextmanager
async def running(tmp_path: Path, manifests: Mapping[str, str], **options: Any) -> AsyncIterator[Plane]:
    """A control plane on a free port that follows its manifests; state survives in `tmp_path/state`."""
    directory = tmp_path / "manifests"
    directory.mkdir(exist_ok=True)
    for name, text in manifests.items():
        (directory / name).write_text(text)
    plane = await ControlPlane.start(
        Options(manifests=directory, state_dir=tmp_path / "state", listen="127.0.0.1:0", **options)
    )
    following = None
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(plane.follow())
            try:
                yield Plane(plane, directory, tmp_path / "state")
            finally:
                following.cancel()
    finally:
        await plane.close()
