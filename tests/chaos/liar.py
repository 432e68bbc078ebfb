"""A control plane that cannot be believed: it passes on what agents ask, and garbles, repeats and invents answers.

`python -m tests.chaos.liar LISTEN TARGET STATE_DIR`. Its certificate is a good one, of the mesh's own authority. What
it says is wrong in ways that an agent has to see through: nothing that would be a valid change is invented, since whom
an agent trusts it has to follow.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from agent.controlplane.serve.ca import open_authority
from agent.controlplane.state_dir import StateDirectory
from agent.pb import xds_pb2

NAME = "istiod.istio-system.svc"
DISCOVERY = "DeltaAggregatedResources"
THREADS = 32


def garbled(response: xds_pb2.DeltaDiscoveryResponse, chances: random.Random) -> list[bytes]:
    """Every resource is noise."""
    for resource in response.resources:
        resource.resource.value = chances.randbytes(40)
    return [response.SerializeToString()]


def cut_short(response: xds_pb2.DeltaDiscoveryResponse, chances: random.Random) -> list[bytes]:
    """The message ends in the middle."""
    whole: bytes = response.SerializeToString()
    return [whole[: len(whole) // 2]]


def repeated(response: xds_pb2.DeltaDiscoveryResponse, chances: random.Random) -> list[bytes]:
    return [response.SerializeToString()] * 3


def invented(response: xds_pb2.DeltaDiscoveryResponse, chances: random.Random) -> list[bytes]:
    """Before it comes one that nobody asked for, and what is not there is taken away."""
    other = xds_pb2.DeltaDiscoveryResponse(nonce="invented", type_url="type.googleapis.com/no.such.Type")
    gone = xds_pb2.DeltaDiscoveryResponse(nonce="gone", type_url=response.type_url)
    gone.removed_resources.append(f"Kubernetes//Pod/demo/nobody-{chances.randrange(100)}")
    return [each.SerializeToString() for each in (other, gone, response)]


def held_back(response: xds_pb2.DeltaDiscoveryResponse, chances: random.Random) -> list[bytes]:
    """It never comes."""
    return []


LIES: tuple[Callable[[xds_pb2.DeltaDiscoveryResponse, random.Random], list[bytes]], ...] = (
    garbled,
    cut_short,
    repeated,
    invented,
    held_back,
)


class Liar(grpc.GenericRpcHandler):
    """Every method, as streams of bytes."""

    def __init__(self, channel: grpc.Channel, chances: random.Random) -> None:
        self._channel, self._chances = channel, chances

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def converse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call = self._channel.stream_stream(details.method, None, None)(
                requests, metadata=[pair for pair in details.invocation_metadata if pair[0] != "user-agent"]
            )
            context.add_callback(call.cancel)
            try:
                for answer in call:
                    yield from self._told(details.method, answer)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

        return grpc.stream_stream_rpc_method_handler(converse)

    def _told(self, method: str, answer: bytes) -> list[bytes]:
        if DISCOVERY in method:
            lie = self._chances.choice(LIES)
            return lie(xds_pb2.DeltaDiscoveryResponse.FromString(answer), self._chances)
        # Certificates among them: noise in place of an answer.
        return [self._chances.randbytes(len(answer))] if self._chances.random() < 0.5 else [answer]


def main(argv: list[str]) -> None:
    listen, target, state_dir = argv
    authority = open_authority(StateDirectory(Path(state_dir)), "cluster.local", lambda: datetime.now(tz=UTC))
    key, chain = authority.server_credentials([NAME, listen.rpartition(":")[0]], datetime.now(tz=UTC))
    options: list[Any] = [("grpc.ssl_target_name_override", NAME), ("grpc.max_receive_message_length", -1)]
    trusted = grpc.ssl_channel_credentials(authority.root_pem.encode())
    with ThreadPoolExecutor(THREADS) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        liar = Liar(grpc.secure_channel(target, trusted, options), random.Random(0))
        server.add_generic_rpc_handlers((liar,))
        server.add_secure_port(listen, grpc.ssl_server_credentials([(key, chain)]))
        server.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1:])
