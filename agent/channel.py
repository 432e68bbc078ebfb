"""Control and worker talk over one unix socket: typed messages, and listener fds beside them.

Frame: u32 length of the body, u32 count of its fds; the body is the u32 length of the header, the header (JSON:
kind and fields, with every bytes value replaced by its index), then the blobs, each behind a u32 length. Fds
travel by SCM_RIGHTS with the first byte of their frame. The socket lies in the run directory (mode 0700): both
ends are ztun, so a malformed frame is a defect and ends the connection.

**Ends of two builds.** A Hello says which PROTOCOL its worker speaks. A kind that came later than that is not sent to
it (`Message.SINCE`). What is unknown all the same is no defect: a kind that does not bind is passed over, and said to
be (NotKnown); after one that binds, by which somebody is to be cut or refused, the worker drains: it goes on with what
it has only as long as that takes, under all else that it is told. A field that is unknown is passed over, so what binds
comes as a kind of its own.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

PREFIX = struct.Struct(">II")
LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 512 << 20
MAX_FDS = 253
"""What one sendmsg(2) passes: SCM_MAX_FD of the kernel."""
PROTOCOL = 2
"""What this build speaks. 0: builds whose Hello did not tell."""
RING, MEMBERS = "ring", "members"
T = TypeVar("T")


class ChannelError(Exception):
    """The other end closed or broke the protocol: drop the connection and deal with its process."""


class FdsLost(ChannelError):
    """Fds of a message did not arrive whole: this process may open no more of them. Ask for them again."""


@dataclass(frozen=True, slots=True)
class Message:
    """Base of what may be sent. Fields are JSON values, bytes, or lists of those."""

    SINCE: ClassVar[int] = 0
    """The protocol with which it came."""
    BINDS: ClassVar[bool] = False
    """Somebody is cut or refused by it: who does not know it may not go on as before. Said in the frame."""


# --- control -> worker


@dataclass(frozen=True, slots=True)
class Resources(Message):
    """Resources the control process accepted. `full`: names not in `updates` are gone.

    What cannot be used now: `refused` policies (name, reason, scope, namespace, dry run), `unusable` addresses (as in
    `model.refused_addresses`). Many updates come in parts of one revision; the rest of the fields is that of the last.
    """

    revision: int
    type_url: str
    updates: Sequence[tuple[str, bytes]]
    removed: Sequence[str] = ()
    full: bool = False
    refused: Sequence[tuple[str, str, str, str, bool]] = ()
    unusable: Sequence[str] = ()
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class Pods(Message):
    """Every pod this node captures: [namespace, name, service account, [address, ...]]."""

    pods: Sequence[tuple[str, str, str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Secret(Message):
    """A certificate with its key (DER), for the identity's handshakes. Memory only, never logged."""

    identity: str
    key: bytes = dataclasses.field(repr=False)
    chain: Sequence[bytes]
    roots: Sequence[bytes]
    ends: float | None = None
    """When an authority that it rests on expires, in s since the epoch, if before the leaf. From protocol 1 on."""


@dataclass(frozen=True, slots=True)
class ForgetSecret(Message):
    identity: str


@dataclass(frozen=True, slots=True)
class Listeners(Message):
    """Serve these listeners of one owner. One fd for each name (model.listener), in their order.

    RING among them is the ring in which the owner's held SYNs come; nobody else reads it from now on. MEMBERS is where
    every worker notes from where somebody has proven who it is.
    """

    owner: int
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class ChoiceKey(Message):
    """By which the kernel chooses a plaintext connection's owner (proxy.own_share). Only with `--local-path=host`."""

    key: int


@dataclass(frozen=True, slots=True)
class Release(Message):
    """Stop accepting on the listeners of this owner: another worker serves them."""

    owner: int


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """Accept nothing more, tell peers, close what is left after the deadline, then exit.

    Until it exits a draining worker is told of state and certificates like the others, judges its live connections
    by them, answers, and reports its figures; the last thing it sends are its last ones.
    """

    deadline_s: float


@dataclass(frozen=True, slots=True)
class GoOn(Message):
    """The agent ends, and another one comes: serve until then. When none has come for `patience_s`: drain.

    Answered by Answer with the same number: who is to end by itself has to know it.
    """

    number: int
    patience_s: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class HandOver(Message):
    """Accept nothing more, and give what is live to the worker at the other end of this fd (`agent.handover`).

    After `patience_s`, or when all is given, what is left drains as by Drain. Answered by HandedOver when the giving
    is over, before the drain; where it failed, that waits some seconds for another HandOver or Drain.
    """

    SINCE = 1
    patience_s: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class TakeOver(Message):
    """Take what the worker at the other end of this fd gives. Answered by Answer: then it does."""

    SINCE = 1
    number: int


@dataclass(frozen=True, slots=True)
class Output(Message):
    """Two fds, for what this worker prints from now on and for its log: those of the agent before may end with it."""


@dataclass(frozen=True, slots=True)
class HostNames(Message):
    """What is known of host names: [name, [address, ...], why there is none]; `gone`: nobody dials them any more."""

    SINCE = 1
    names: Sequence[tuple[str, Sequence[str], str]]
    gone: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DnsClients(Message):
    """The addresses of the enrolled pods whose DNS comes to the workers."""

    SINCE = 1
    addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Revoked(Message):
    """The revocation lists in force: [DER, the serials on it in hexadecimal with blanks between], ..."""

    SINCE = 1
    BINDS = True
    lists: Sequence[tuple[bytes, str]]


@dataclass(frozen=True, slots=True)
class LogLevels(Message):
    """Write lines of this level and above (`agent.log_levels`): `overall`, but for `targets`, each with its own."""

    SINCE = 1
    overall: str
    targets: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class TakesQuestions(Message):
    """The state is partial: what it lacks may be asked for by Wanted."""

    SINCE = 1


@dataclass(frozen=True, slots=True)
class TakesChanges(Message):
    """What Stats have said of TCP connections is remembered: from the next one on, they may say what has changed."""

    SINCE = 2


@dataclass(frozen=True, slots=True)
class Answered(Message):
    """The control plane was asked about these names. What it said is applied: what is not in the state is nowhere."""

    SINCE = 1
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Ask(Message):
    """A question for the admin server; answered by Answer with the same number."""

    number: int
    what: str


# --- worker -> control


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """First message of a worker. `served`: owner and name of each listener; one fd for each, in their order."""

    slot: int
    pid: int
    served: Sequence[tuple[int, str]]
    version: str
    is_draining: bool = False
    """It accepts nothing more and will exit: it cannot be given listeners."""
    protocol: int = 0
    formats: Sequence[int] = ()
    """Of units (`agent.model.unit`): those in which it gives what is live, and takes it."""


@dataclass(frozen=True, slots=True)
class Leaving(Message):
    """Somebody asked this worker to end (SIGTERM). It goes on until it is told to drain, or nobody tells it."""


@dataclass(frozen=True, slots=True)
class Unserved(Message):
    """The fds of this owner's listeners did not arrive: nobody accepts on them here. Send them again."""

    owner: int


@dataclass(frozen=True, slots=True)
class Wanted(Message):
    """Names that connections wait for: `NETWORK/IP` or `NAMESPACE/HOSTNAME`. Sent only to who takes questions."""

    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Applied(Message):
    """State up to this revision is what new and live connections are judged by."""

    revision: int


@dataclass(frozen=True, slots=True)
class Stats(Message):
    """Absolute counters of the worker; control adds up. All of them, but to who TakesChanges."""

    metrics: Any
    connections: int
    pods: Sequence[tuple[str, Sequence[int], str]] = ()
    """By pod address: accepted outbound and inbound, tunnels, handshakes done and failed; the last failure in words."""
    strangers: Sequence[tuple[str, int]] = ()  # an older control process takes no more in `pods`


@dataclass(frozen=True, slots=True)
class HandedOver(Message):
    """A worker has given what it could, and drains: how many of each kind went, and how many stay for which reason.

    `pause_s`: the longest that one stood still; `failure`: why it stopped before the end; `moved_s`: until the last had
    moved, with `values_bytes` of state, and `blobs_bytes` of keys and of what was under way.
    """

    SINCE = 1
    moved: Sequence[tuple[str, int]]
    left: Sequence[tuple[str, int]]
    took_s: float
    pause_s: float
    failure: str = ""
    moved_s: float = 0.0
    values_bytes: int = 0
    blobs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NotKnown(Message):
    """A message of this kind came, and this worker does not know what it means; `binds`: therefore it drains."""

    SINCE = 1
    kind: str
    binds: bool


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """`value`: what was asked for, as it is or as the bytes of its JSON."""

    number: int
    value: Any


SIMPLE: dict[Any, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Unknown(Message):
    """What somebody of another build sent. Never sent itself."""

    kind: str
    binds: bool


def encode(message: Message, fd_count: int = 0) -> bytes:
    """The frame of a message. What is None by default and is so now is left out: an older worker may not know it."""
    blobs: list[bytes] = []
    told = [(f, getattr(message, f.name)) for f in dataclasses.fields(message)]
    fields = {f.name: _lift(value, blobs) for f, value in told if f.default is not None or value is not None}
    # Of protocol 0 is what has two parts.
    mark = [True] if message.BINDS and message.SINCE else []
    header = json.dumps([type(message).__name__, fields, *mark], separators=(",", ":")).encode()
    body = b"".join([LENGTH.pack(len(header)), header, *(LENGTH.pack(len(b)) + b for b in blobs)])
    return PREFIX.pack(len(body), fd_count) + body


def _lift(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, bytes):
        blobs.append(value)
        return {"$blob": len(blobs) - 1}
    return [_lift(item, blobs) for item in value] if isinstance(value, list | tuple) else value


def _lower(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, dict) and value.keys() == {"$blob"}:
        return blobs[value["$blob"]]
    return [_lower(item, blobs) for item in value] if isinstance(value, list) else value


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value, if it is of the field's type, as far as control compares or reckons with it. Raises TypeError."""
    kinds = SIMPLE.get(field.type) or (list if str(field.type).startswith("Sequence") else object)
    if not isinstance(value, kinds):
        raise TypeError(f"{field.name} is of type {type(value).__name__}")
    return value


def decode(body: bytes) -> Message:
    """A message from the body of a frame; Unknown where another build made it. Raises ChannelError."""
    try:
        (header_bytes,) = LENGTH.unpack_from(body)
        name, fields, *marks = json.loads(body[4 : 4 + header_bytes])
        blobs, at = [], 4 + header_bytes
        while at < len(body):
            (size,) = LENGTH.unpack_from(body, at)
            blobs.append(body[at + 4 : at + 4 + size])
            at += 4 + size
        if name not in KINDS:
            return Unknown(str(name), any(marks[:1]))
        kind = KINDS[name]
        known = [(field, fields[field.name]) for field in dataclasses.fields(kind) if field.name in fields]
        return kind(**{field.name: _typed(field, _lower(value, blobs)) for field, value in known})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise ChannelError(f"malformed frame on the worker channel: {error}") from error


def with_fds(names: Sequence[T], fds: Sequence[int]) -> list[tuple[T, int]]:
    """What a message names, each with its fd. Raises FdsLost where they are fewer, and closes those that came."""
    if len(names) != len(fds):
        for fd in fds:
            socket.close(fd)
        raise FdsLost(f"{len(fds)} fds came for {len(names)} listeners")
    return list(zip(names, fds, strict=True))
