"""What other processes of a node say: runtimes and istio-cni, workers to control and to each other."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from unittest import mock

from agent.channel import KINDS, LENGTH, PREFIX, SIMPLE, ChannelError, Unknown, decode, encode
from agent.cni import ztun_cni
from agent.handover.messages import Decoder, ProtocolError
from agent.identity.handshake import Secured
from agent.model import unit
from agent.model.unit import BadUnit, PlainValue, StateReader
from agent.proxy.pool_key import PoolKey
from agent.telemetry.past import Past
from agent.wire.h2_tunnel import H2Tunnels
from agent.wire.tls_records import TlsState
from agent.wire.zds import Add, Conversation, Del, Keep, SnapshotSent, ZdsViolation, ack
from tests.fuzz.noise import Noise


class Deaf:
    """An agent that is not there, whatever its path; one that is none is refused as it is by the real one."""

    def __init__(self, *_: int) -> None: ...

    def settimeout(self, value_s: float) -> None:
        assert 0 < value_s < 4000

    def connect(self, path: object) -> None:
        if not isinstance(path, str | bytes):
            raise TypeError("a path is text")
        if len(os.fsencode(path)) > 107:
            raise OSError("AF_UNIX path too long")
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


ENVIRONMENT = {"CNI_NETNS": "/run/netns/x", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0"}
COMMANDS = ("ADD", "DEL", "CHECK", "STATUS", "GC", "")


def cni(data: bytes) -> None:
    """stdin and CNI_ARGS: a result that can be written, or a CniError with a code of the specification or our own."""
    noise = Noise(data)
    command, arguments = noise.pick(COMMANDS), noise.text()
    environment = {**ENVIRONMENT, "CNI_ARGS": arguments or "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web"}
    with mock.patch.object(ztun_cni._socket, "socket", Deaf):
        try:
            result = ztun_cni.run(command, ztun_cni.read_config(noise.rest()), environment)
        except ztun_cni.CniError as error:
            assert str(error) and 0 < error.code < 200
            return
    assert result is None or json.loads(ztun_cni.written(result))["cniVersion"] in ztun_cni.SUPPORTED


def zds(data: bytes) -> None:
    """Packets of one connection: requests, or one violation that ends it."""
    noise, talk = Noise(data), Conversation()
    while noise.left:
        packet, descriptors = noise.some(), noise.below(3)
        try:
            request = talk.receive(packet, descriptors, is_cut=noise.below(16) == 15)
        except ZdsViolation as violation:
            assert len(ack(str(violation))) < 1000
            return
        assert isinstance(request, Add | Keep | Del | SnapshotSent) and str(request)
        assert descriptors == isinstance(request, Add)


VALUES = (
    None,
    True,
    7,
    -1,
    1.5,
    "x",
    "",
    [],
    ["a"],
    [7],
    [["a", 7]],
    {"$blob": 0},
    [["a", {"$blob": 1}]],
    {},
    {"a": 1},
)


def worker_channel(data: bytes) -> None:
    """A frame of a worker, which may be taken over by its peers: a message whose fields are of their types."""
    noise = Noise(data)
    frame = noise.rest() if noise.below(4) == 0 else framed(noise)
    try:
        message = decode(frame)
    except ChannelError:
        return
    if isinstance(message, Unknown):
        return
    for field in dataclasses.fields(message):
        kinds = SIMPLE.get(field.type)
        assert kinds is None or isinstance(getattr(message, field.name), kinds)
    told = encode(message)
    assert encode(decode(told[PREFIX.size :])) == told


def framed(noise: Noise) -> bytes:
    """Of a kind that there is, with the names of its fields and values of any type."""
    kind = noise.pick(sorted(KINDS))
    fields = {field.name: noise.pick(VALUES) for field in dataclasses.fields(KINDS[kind]) if noise.below(8)}
    header = json.dumps([kind, fields]).encode()
    blobs = [noise.some() for _ in range(noise.below(3))]
    return b"".join(LENGTH.pack(len(part)) + part for part in (header, *blobs))


def _of_records(fields: PlainValue) -> None:
    state = TlsState.from_plain(fields)
    assert TlsState.from_plain(state.plain()) == state


def _of_peer(fields: PlainValue) -> None:
    secured = Secured.from_plain(fields)
    assert secured.plain(secured.state)["peer_der"] == secured.peer_der


def _of_h2(fields: PlainValue) -> None:
    for is_server in (True, False):
        made = H2Tunnels.from_state(fields, is_server=is_server, now_s=0.0)
        told = made.state(0.0)
        again = H2Tunnels.from_state(_travelled(told), is_server=is_server, now_s=0.0)
        assert again.state(0.0) == told


def _of_pool_key(fields: PlainValue) -> None:
    PoolKey.from_state(StateReader("key", fields))


def _of_past(fields: PlainValue) -> None:
    Past.from_state(StateReader("past", fields))


READERS: tuple[Callable[[PlainValue], None], ...] = (_of_records, _of_peer, _of_h2, _of_pool_key, _of_past)


def _travelled(fields: unit.State) -> PlainValue:
    return unit.decode(unit.encode(unit.Unit("any", fields))).fields


def handed_over_units(data: bytes) -> None:
    """A unit that is read is the same when it is written again; what it holds is taken, or refused by name."""
    noise = Noise(data)
    reader = noise.pick(READERS)
    try:
        made = unit.decode(noise.rest())
    except BadUnit as error:
        assert len(str(error)) < 4000
        return
    assert unit.decode(unit.encode(made)) == made
    try:
        reader(made.fields)
    except BadUnit as error:
        assert str(error)


def handed_over_state(data: bytes) -> None:
    """The state of a live HTTP/2 connection with some of its fields changed: taken and the same again, or refused."""
    noise = Noise(data)
    made = H2Tunnels(is_server=True, now_s=0.0)
    told = made.state(0.0)
    names = sorted(told)
    for _ in range(1 + noise.below(4)):
        value: PlainValue = noise.pick((None, True, 0, -1, 1 << 70, 0.5, "", b"", [], {}))
        if noise.below(2):
            value = noise.below(1 << 32) - (1 << 31)
        place: unit.State = told
        name = noise.pick(names)
        inner = told.get(name)
        if isinstance(inner, dict) and inner and noise.below(4):
            place, name = inner, noise.pick(sorted(inner))
        if noise.below(8):
            place[name] = value
        else:
            place.pop(name, None)
    try:
        _of_h2(_travelled(told))
    except BadUnit as error:
        assert str(error)


def hand_over_protocol(data: bytes) -> None:
    """What a giver or taker says, cut anywhere: the same messages, or one ProtocolError."""

    def said(pieces: list[bytes]) -> list[str]:
        decoder = Decoder()
        found: list[str] = []
        try:
            for piece in pieces:
                for message in decoder.receive(piece, ()):
                    found.append(repr(message))  # what was said before an error counts
        except ProtocolError as error:
            found.append(str(error))
        finally:
            decoder.close()
        return found

    noise = Noise(data)
    cuts = Noise(noise.bytes(noise.below(8)))
    whole = noise.rest()
    assert said([whole]) == said(cuts.pieces(whole))
