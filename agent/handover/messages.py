"""What the giver and the taker of live connections say to each other, and its bytes.

    taker -> giver   Hello: the formats of units it takes; then, for each unit, Ready or Refused
    giver -> taker   for each unit Offer, then Go: it is yours now, or No: it is mine as before; at last Done

Frame: u8 kind, u8 zero, u16 count of its fds, u32 length, u32 number of the unit, then so many bytes. Fds go by
SCM_RIGHTS with the first byte of their frame. One message passes 253 of them at most (SCM_MAX_FD of the kernel), so
those of an Offer go ahead in Fds frames, and the Offer says how many they are together. Both ends are ztun, though
perhaps of two builds: what is malformed, too large or out of turn ends the hand-over, never the connections.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from agent.model.unit import MAX_UNIT_BYTES

HEAD = struct.Struct(">BxHII")
OFFER = struct.Struct(">II")
"""In front of a unit's bytes: its format, the count of its fds."""
FDS_PER_FRAME = 200
MAX_FDS = 20_000
"""Of one unit. A link has one for each stream, and some whose streams are over."""
MAX_SMALL_BYTES = 1 << 12
MAX_FINAL_BYTES = 64 << 20
REASON_CHARACTERS = 200


class ProtocolError(Exception):
    """The other end does not keep to the protocol: have nothing more to do with it."""


@dataclass(frozen=True, slots=True)
class Message:
    """Base. `KIND` is its number in the frame."""

    KIND: ClassVar[int]
    MOST_BYTES: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """`formats`: those of units that the taker takes."""

    KIND = 1
    MOST_BYTES = MAX_SMALL_BYTES
    formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """One unit. `fds` are the descriptors that arrived: fewer than `fd_count` where this process may open no more."""

    KIND = 2
    MOST_BYTES = OFFER.size + MAX_UNIT_BYTES
    number: int
    format: int
    data: bytes = field(repr=False)
    fd_count: int
    fds: tuple[int, ...] = ()

    @property
    def is_whole(self) -> bool:
        return len(self.fds) == self.fd_count

    def close(self) -> None:
        """Let go of what came with it."""
        close_all(self.fds)


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The unit is built, and goes on at Go."""

    KIND = 3
    number: int


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """The taker has let go of the unit. `reason` in words, for the log."""

    KIND = 4
    MOST_BYTES = MAX_SMALL_BYTES
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Go(Message):
    """The giver has let go of the unit: go on with it."""

    KIND = 5
    number: int


@dataclass(frozen=True, slots=True)
class No(Message):
    """The giver goes on with the unit: forget it."""

    KIND = 6
    number: int


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The giver ends. `final`: what it has counted in its life (JSON); the taker counts on from there."""

    KIND = 7
    MOST_BYTES = MAX_FINAL_BYTES
    final: bytes = field(repr=False)


_FDS = 8
_KINDS: dict[int, type[Message]] = {kind.KIND: kind for kind in Message.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to send, with the fds that leave with the first of them."""

    data: bytes | memoryview = field(repr=False)
    fds: tuple[int, ...] = ()


def encode(message: Message) -> Iterator[Piece]:
    """A message in the pieces that it goes in."""
    number = getattr(message, "number", 0)
    body = b""
    match message:
        case Hello():
            body = json.dumps(message.formats).encode()
        case Offer():
            for at in range(0, len(message.fds), FDS_PER_FRAME):
                fds = message.fds[at : at + FDS_PER_FRAME]
                yield Piece(HEAD.pack(_FDS, len(fds), 0, number), fds)
            body = OFFER.pack(message.format, message.fd_count) + message.data
        case Refused():
            body = message.reason[:REASON_CHARACTERS].encode(errors="replace")
        case Done():
            body = message.final
    yield Piece(HEAD.pack(message.KIND, 0, len(body), number) + body)


class Decoder:
    """Bytes and fds in, messages out. What is not yet part of a message is closed by `close`."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._batches: deque[tuple[int, ...]] = deque()
        """Fds that came, by the frames they came with."""
        self._fds: list[int] = []
        """Of the unit that is being offered."""
        self._offered = 0
        self._announced = 0

    def receive(self, data: bytes, fds: Sequence[int], *, were_fds_lost: bool = False) -> Iterator[Message]:
        """What is complete by one read. It belongs to this object until it is taken; raises ProtocolError."""
        # One read never goes on behind fds: so there is at most one frame with some in it.
        if fds or were_fds_lost:
            self._batches.append(tuple(fds))
        self._bytes += data
        while len(self._bytes) >= HEAD.size:
            kind, fd_count, size, number = HEAD.unpack_from(self._bytes)
            self._check(kind, fd_count, size)
            if len(self._bytes) < HEAD.size + size:
                return
            body = bytes(memoryview(self._bytes)[HEAD.size : HEAD.size + size])
            del self._bytes[: HEAD.size + size]
            if kind == _FDS:
                self._take_fds(number, fd_count)
            else:
                yield self._message(kind, number, body)

    def _check(self, kind: int, fd_count: int, size: int) -> None:
        """Before its bytes are there: nothing is kept that would not be taken."""
        if kind == _FDS:
            if size or not 0 < fd_count <= FDS_PER_FRAME or self._announced + fd_count > MAX_FDS:
                raise ProtocolError(f"{fd_count} descriptors and {size} bytes in one frame")
        elif kind not in _KINDS:
            raise ProtocolError(f"a frame of kind {kind}")
        elif fd_count or size > _KINDS[kind].MOST_BYTES:
            raise ProtocolError(f"a {_KINDS[kind].__name__} of {size} bytes and {fd_count} descriptors")

    def _take_fds(self, number: int, fd_count: int) -> None:
        if not self._batches:
            raise ProtocolError(f"{fd_count} descriptors did not come with their frame")
        if self._announced and number != self._offered:
            raise ProtocolError("descriptors of two units at once")
        batch = self._batches.popleft()
        self._fds += batch
        if len(batch) > fd_count:
            raise ProtocolError(f"{len(batch)} descriptors came in place of {fd_count}")
        self._offered = number
        self._announced += fd_count

    def _message(self, kind: int, number: int, body: bytes) -> Message:
        if self._announced and kind != Offer.KIND:
            raise ProtocolError("descriptors without their unit")
        if kind == Offer.KIND:
            return self._offer(number, body)
        if kind == Hello.KIND:
            return Hello(_formats(body))
        if kind == Refused.KIND:
            return Refused(number, body.decode(errors="replace"))
        if kind == Done.KIND:
            return Done(body)
        return {Ready.KIND: Ready, Go.KIND: Go, No.KIND: No}[kind](number)

    def _offer(self, number: int, body: bytes) -> Offer:
        if len(body) < OFFER.size:
            raise ProtocolError(f"an Offer of {len(body)} bytes")
        format_, fd_count = OFFER.unpack_from(body)
        if self._announced != fd_count or (self._announced and self._offered != number):
            raise ProtocolError(f"a unit with {self._announced} of {fd_count} descriptors")
        fds, self._fds, self._announced = tuple(self._fds), [], 0
        return Offer(number, format_, body[OFFER.size :], fd_count, fds)

    def close(self) -> None:
        close_all(self._fds)
        for batch in self._batches:
            close_all(batch)
        self._fds.clear()
        self._batches.clear()
        self._bytes.clear()


def _formats(body: bytes) -> tuple[int, ...]:
    try:
        formats = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a Hello that is no JSON: {error}") from None
    if not isinstance(formats, list):
        raise ProtocolError("a Hello without a list of formats")
    # What is no number is what a later build says besides: nothing follows from it here.
    return tuple(each for each in formats if type(each) is int)


def close_all(fds: Iterable[int]) -> None:
    """Plain close: nothing is said on what they lead to, which others go on with."""
    for fd in fds:
        os.close(fd)
