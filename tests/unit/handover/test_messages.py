"""The bytes between giver and taker: whole messages however they are split, and for all else an error and no leak."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.handover import messages
from agent.handover.messages import (
    FDS_PER_FRAME,
    HEAD,
    OFFER,
    Decoder,
    Done,
    Go,
    Hello,
    Message,
    No,
    Offer,
    ProtocolError,
    Ready,
    Refused,
    close_all,
    encode,
)

NUMBERS = st.integers(0, (1 << 32) - 1)
PLAIN = st.one_of(
    st.builds(Hello, st.lists(st.integers(), max_size=5).map(tuple)),
    st.builds(Ready, NUMBERS),
    st.builds(Refused, NUMBERS, st.text(max_size=messages.REASON_CHARACTERS)),
    st.builds(Go, NUMBERS),
    st.builds(No, NUMBERS),
    st.builds(Done, st.binary(max_size=100)),
)
SAID = st.lists(st.one_of(PLAIN, st.tuples(NUMBERS, st.binary(max_size=50), st.integers(0, 3))), max_size=8)


def opened() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def offer(number: int, data: bytes, count: int) -> Offer:
    fds = tuple(os.open("/dev/null", os.O_RDONLY) for _ in range(count))
    return Offer(number, 1, data, count, fds)


def arrivals(said: Message, cuts: Sequence[int]) -> Iterator[tuple[bytes, list[int]]]:
    """As reads bring it: one never goes on behind fds, and may end anywhere."""
    for piece in encode(said):
        data, fds = bytes(piece.data), [os.dup(fd) for fd in piece.fds]
        edges = sorted({min(len(data), 1 + cut % len(data)) for cut in cuts} | {len(data)})
        start = 0
        for end in edges:
            yield data[start:end], fds
            start, fds = end, []


@given(SAID, st.lists(st.integers(0, 1 << 16), max_size=6))
def test_messages_arrive_whole_however_they_are_split(
    said: list[Message | tuple[int, bytes, int]], cuts: list[int]
) -> None:
    before = opened()
    sent = [each if isinstance(each, Message) else offer(*each) for each in said]
    heard: list[Message] = []
    decoder = Decoder()
    for message in sent:
        for data, fds in arrivals(message, cuts):
            heard += decoder.receive(data, fds)
    assert len(heard) == len(sent)
    for here, there in zip(sent, heard, strict=True):
        if isinstance(here, Offer):
            assert isinstance(there, Offer) and there.is_whole
            assert (there.number, there.format, there.data) == (here.number, here.format, here.data)
            here.close()
            there.close()
        else:
            assert here == there
    decoder.close()
    assert opened() == before


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 2), st.booleans()), max_size=6),
    st.integers(0, 8),
)
def test_what_is_no_message_is_an_error_and_leaks_nothing(
    reads: list[tuple[bytes, int, bool]], kind: int
) -> None:
    """Any bytes, with any descriptors; some begin as a frame does."""
    before, decoder = opened(), Decoder()
    try:
        for data, count, is_framed in reads:
            fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
            framed = HEAD.pack(kind, count if kind == 8 else 0, len(data) % 20, 1) + data
            for message in decoder.receive(framed if is_framed else data, fds):
                if isinstance(message, Offer):
                    message.close()
    except ProtocolError:
        pass
    decoder.close()
    assert opened() == before


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (HEAD.pack(9, 0, 0, 1), "kind 9"),
        (HEAD.pack(3, 0, 1, 1), "Ready of 1 bytes"),
        (HEAD.pack(2, 1, 8, 1), "1 descriptors"),
        (HEAD.pack(2, 0, 0xFFFFFFFF, 1), "Offer of 4294967295 bytes"),
        (HEAD.pack(7, 0, 0xFFFFFFFF, 1), "Done of 4294967295 bytes"),
        (HEAD.pack(2, 0, 4, 1) + bytes(4), "Offer of 4 bytes"),
        (HEAD.pack(2, 0, 8, 1) + OFFER.pack(1, 3), "0 of 3 descriptors"),
        (HEAD.pack(8, FDS_PER_FRAME + 1, 0, 1), "201 descriptors"),
        (HEAD.pack(8, 3, 0, 1), "did not come with their frame"),
        (HEAD.pack(1, 0, 2, 0) + b"{}", "list of formats"),
        (HEAD.pack(1, 0, 2, 0) + b"[1", "no JSON"),
    ],
)
def test_hostile_frames_are_refused_by_name(frame: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        list(Decoder().receive(frame, ()))


def test_descriptors_of_a_unit_go_in_batches_and_those_that_are_lost_are_told() -> None:
    """Over a real socket: the kernel takes no more than 253 at once."""
    count = 2 * FDS_PER_FRAME + 7
    before = opened()
    sent, decoder = offer(1, b"unit", count), Decoder()
    here, there = socket.socketpair()
    heard: list[Message] = []
    with closing(here), closing(there):
        for is_short in (False, True):
            for piece in encode(sent):
                socket.send_fds(here, [piece.data], piece.fds)
            there.setblocking(False)
            for batch in range(4):
                most = 54 if is_short and batch == 1 else FDS_PER_FRAME
                data, fds, flags, _ = socket.recv_fds(there, 1 << 16, most)
                heard += decoder.receive(data, fds, were_fds_lost=bool(flags & socket.MSG_CTRUNC))
    whole, short = heard
    assert isinstance(whole, Offer) and isinstance(short, Offer)
    assert whole.is_whole and len(whole.fds) == count
    assert not short.is_whole and len(short.fds) == count - FDS_PER_FRAME + 54
    for each in (sent, whole, short):
        each.close()
    assert opened() == before


def test_what_came_of_a_unit_that_never_became_whole_is_closed() -> None:
    before = opened()
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    decoder = Decoder()
    assert not list(decoder.receive(HEAD.pack(8, 2, 0, 1), fds))
    assert not list(decoder.receive(HEAD.pack(2, 0, 50, 1) + b"half", [*map(os.dup, fds[:1])]))
    decoder.close()
    assert opened() == before


def test_a_reason_is_cut() -> None:
    [heard] = Decoder().receive(b"".join(bytes(p.data) for p in encode(Refused(1, "x" * 10_000))), ())
    assert isinstance(heard, Refused) and len(heard.reason) == messages.REASON_CHARACTERS


def test_plain_close_is_all() -> None:
    here, there = socket.socketpair()
    shared = os.dup(here.fileno())
    close_all([here.detach()])
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        there.recv(1)  # the connection goes on: another process has it
    os.close(shared)
    assert there.recv(1) == b""
    there.close()


def test_what_another_build_says_beside_its_formats_is_passed_over() -> None:
    body = b'[3, true, {"most": 7}, "1", 1]'
    assert list(Decoder().receive(HEAD.pack(1, 0, len(body), 0) + body, ())) == [Hello((3, 1))]
