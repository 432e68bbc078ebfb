"""ZDS, by which istio-cni tells a node proxy of pods: sans-IO, the proxy's end of one connection.

One protobuf message a packet (agent/pb/zds.proto) over a SOCK_SEQPACKET socket. The proxy says hello, is sent the pods
that there are (`add` with one descriptor of the pod's network namespace each, or `keep`), then `snapshot_sent`, then
`add` and `del` as they come, and acknowledges each message: with a text what cannot be done. What breaks this order or
cannot be read is a ZdsViolation: nobody knows then what was meant. Knows nothing of sockets, and of descriptors only
how many came. docs/WIRE.md#zds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from agent.pb import zds_pb2

PACKET_BYTES = 1024
"""The largest packet either end takes."""
ERROR_BYTES = 960
"""Of an ack's text: istio-cni reads no more than a packet."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)
_REQUEST: Any = zds_pb2.WorkloadRequest
_RESPONSE: Any = zds_pb2.WorkloadResponse
_HELLO: Any = zds_pb2.ZdsHello
HELLO: bytes = _HELLO(version=zds_pb2.V1).SerializeToString()


class ZdsViolation(Exception):
    """A packet that cannot be used; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Add:
    """A pod is to be captured, in the namespace of the descriptor that came along. `uid`: as Kubernetes has it."""

    uid: str
    namespace: str
    name: str
    service_account: str

    def __str__(self) -> str:
        return f"add of pod {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Keep:
    """A pod whose namespace istio-cni has not found: it stays as it is."""

    uid: str

    def __str__(self) -> str:
        return f"keep of pod {self.uid}"


@dataclass(frozen=True, slots=True)
class Del:
    """A pod is gone, or is to be in the mesh no longer. It need not be known."""

    uid: str

    def __str__(self) -> str:
        return f"del of pod {self.uid}"


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """Every pod was named."""

    def __str__(self) -> str:
        return "snapshot_sent"


Request = Add | Keep | Del | SnapshotSent


class Conversation:
    """What has been said in one connection. `has_snapshot`: whether all pods were named."""

    def __init__(self) -> None:
        self.has_snapshot = False

    def receive(self, packet: bytes, descriptors: int, *, is_cut: bool = False) -> Request:
        """What a packet asks for, which came with so many descriptors. Raises ZdsViolation.

        `is_cut`: the kernel could not hand over all of it (MSG_TRUNC, MSG_CTRUNC).
        """
        if is_cut:
            raise ZdsViolation("a packet is too large, or its descriptors could not be taken")
        request = decode(packet)
        wanted = 1 if isinstance(request, Add) else 0
        if descriptors != wanted:
            raise ZdsViolation(f"{request} came with {descriptors} descriptors instead of {wanted}")
        if self.has_snapshot and isinstance(request, Keep | SnapshotSent):
            raise ZdsViolation(f"{request} after the snapshot was sent")
        if isinstance(request, SnapshotSent):
            self.has_snapshot = True
        return request


def decode(packet: bytes) -> Request:
    """Raises ZdsViolation."""
    message = _REQUEST()
    try:
        message.ParseFromString(packet)
    except DecodeError as error:
        raise ZdsViolation(f"a packet of {len(packet)} bytes is no request: {error}") from error
    match message.WhichOneof("payload"):
        case "add":
            add = message.add
            if not add.HasField("workload_info"):
                raise ZdsViolation(f"add of pod {add.uid!r} does not say which pod it is (workload_info)")
            info = add.workload_info
            request = Add(add.uid, info.namespace, info.name, info.service_account)
            for what, value in _texts(request):
                if not _NAME.fullmatch(value):
                    raise ZdsViolation(f"add of pod {add.uid!r} has {value[:80]!r} for its {what}")
            return request
        case "keep":
            return Keep(message.keep.uid)
        case "del":
            # Its name is a word of Python.
            return Del(getattr(message, "del").uid)
        case "snapshot_sent":
            return SnapshotSent()
        case _:
            raise ZdsViolation("a packet asks for nothing that is known: a newer istio-cni?")


def ack(error: str = "") -> bytes:
    """The answer to a request; with a text, what of it could not be done."""
    text = error.encode(errors="replace")[:ERROR_BYTES].decode(errors="ignore")
    # Set also when it is empty: a packet without a byte would be the end of the connection.
    packet: bytes = _RESPONSE(ack=zds_pb2.Ack(error=text)).SerializeToString()
    return packet


def _texts(add: Add) -> Iterator[tuple[str, str]]:
    yield "uid", add.uid
    yield "namespace", add.namespace
    yield "name", add.name
    yield "service_account", add.service_account
