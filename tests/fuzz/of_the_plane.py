"""What a control plane says to an agent, and people to ours: xDS resources and their versions, manifests."""

from __future__ import annotations

from google.protobuf.message import DecodeError as ProtobufError

from agent.controlplane.read.admission import NOTHING, admit
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.translate.compose import translate
from agent.controlplane.translate.effects import remarks
from agent.controlplane.translate.mesh import MeshSettings, mesh_of
from agent.controlplane.translate.refusals import refusals
from agent.model.policy import Authorization
from agent.model.service import Service
from agent.model.workload import Workload
from agent.pb.xds_pb2 import DeltaDiscoveryResponse, Node
from agent.wire.xds_decode import DecodeError, decode_address, decode_authorization
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, XdsDelta
from agent.wire.xds_encode import encode_address
from tests.fuzz.noise import Noise


def xds_address(raw: bytes) -> None:
    """A value that means the same to workers that are told of it, or a DecodeError that names the resource."""
    try:
        decoded = decode_address("name", raw)
    except DecodeError as error:
        assert str(error).startswith("name: ")
    else:
        assert isinstance(decoded, Workload | Service)
        assert hash(decoded) == hash(decode_address("name", raw))
        assert decoded == decode_address("name", raw)
        again = decode_address("name", encode_address(decoded))
        assert again == decoded and repr(again) == repr(decoded), "what a worker that comes later is told"


def xds_policy(raw: bytes) -> None:
    """As `xds_address`, of a policy."""
    try:
        decoded = decode_authorization("name", raw)
    except DecodeError as error:
        assert str(error).startswith("name: ")
    else:
        assert isinstance(decoded, Authorization)


def xds_responses(data: bytes) -> None:
    """Responses of one stream in whatever order: each is answered, and what is claimed to be held was applied."""
    noise, delta = Noise(data), XdsDelta(Node(id="me"))
    delta.open()
    held: dict[str, dict[str, str]] = {ADDRESS: {}, AUTHORIZATION: {}}
    while noise.left:
        message = DeltaDiscoveryResponse()
        is_ours = noise.below(4)
        try:
            message.ParseFromString(noise.some())
        except ProtobufError:
            return
        if is_ours:
            message.type_url = noise.pick((ADDRESS, AUTHORIZATION))
        received = delta.receive(message)
        refused = {row.name: "no" for row in received.updates if noise.below(2)}
        answer = delta.settle(received, refused)
        assert (answer.type_url, answer.response_nonce) == (message.type_url, message.nonce)
        assert answer.HasField("error_detail") == bool(refused or received.malformed)
        if message.type_url in held:
            mine = held[message.type_url]
            mine.update({row.name: row.version for row in received.updates if row.name not in refused})
            for name in received.removed:
                if name not in refused:
                    mine.pop(name, None)
            assert delta.accepted(message.type_url) == mine


def manifests(text: str) -> None:
    """Objects, or refusals with a place; the same again changes nothing."""
    read = {"f.yaml": parse("f.yaml", text)}
    for is_first in (True, False):
        standing = admit(NOTHING, read, is_first=is_first)
        for error in standing.errors:
            assert (
                error.file == "f.yaml" and error.line >= 1 and error.document >= 1 and "f.yaml:" in str(error)
            )
        inventory = collect(standing.served())
        mesh = mesh_of(inventory, MeshSettings())
        for remark in (*refusals(standing, mesh), *standing.remarks, *remarks(inventory, mesh)):
            assert "f.yaml:" in str(remark)
        translate(inventory, {}, MeshSettings())
        again = admit(standing, read)
        assert list(again.served()) == list(standing.served()), "the same again changes nothing"
        assert [r.outcome for r in again.refused] == [r.outcome for r in standing.refused]


def manifest_bytes(data: bytes) -> None:
    manifests(data.decode(errors="surrogateescape"))
