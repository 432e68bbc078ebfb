"""The worker channel: messages arrive whole and in order, with their fds, however the bytes are split."""

from __future__ import annotations

import json
import os
import resource
import socket
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import channel, channel_socket
from agent.channel import ChannelError, Hello, Listeners, Resources, Secret
from agent.channel_socket import Channel
from agent.config import MOST_WORKERS
from agent.model.listener import ROWS


def test_messages_survive_the_round_trip() -> None:
    message = Resources(7, "type", [("a", b"\x00\xff"), ("b", b"")], ["gone"], True)
    back = channel.decode(channel.encode(message)[channel.PREFIX.size :])
    assert isinstance(back, Resources)
    assert [tuple(u) for u in back.updates] == list(message.updates)
    assert (back.revision, back.removed, back.full) == (7, ["gone"], True)


def test_what_an_older_worker_may_not_know_is_not_sent_where_there_is_nothing_to_say() -> None:
    """It would take the frame for a broken one."""
    secret = Secret("spiffe://a/ns/b/sa/c", b"key", [b"leaf"], [b"root"])
    assert b"ends" not in channel.encode(secret)
    for each in (secret, replace(secret, ends=1.5), channel.Answer(1, None)):
        assert channel.decode(channel.encode(each)[channel.PREFIX.size :]) == each


def framed(header: object) -> bytes:
    """A body with any header, as another build may send it."""
    told = json.dumps(header).encode()
    return channel.LENGTH.pack(len(told)) + told


def test_a_kind_of_another_build_is_no_defect_and_says_whether_it_binds() -> None:
    assert channel.decode(framed(["Quarantine", {"pod": "a"}, True])) == channel.Unknown("Quarantine", True)
    assert channel.decode(framed(["Hint", {}])) == channel.Unknown("Hint", False)
    assert channel.decode(framed(["Hint", {}, False, "more"])) == channel.Unknown("Hint", False)


def test_a_field_of_another_build_is_passed_over() -> None:
    assert channel.decode(framed(["Release", {"owner": 1, "since": 5}])) == channel.Release(1)


def test_what_came_with_protocol_0_is_framed_as_builds_before_know_it() -> None:
    """Two parts in the header; and of the kinds that bind those say so which came later."""
    for kind in channel.KINDS.values():
        assert kind.SINCE <= channel.PROTOCOL
    header = channel.encode(Secret("spiffe://a/ns/b/sa/c", b"", [], []))[channel.PREFIX.size + 4 :]
    assert json.loads(header[: header.rindex(b"]") + 1]) == ["Secret", {**SECRET}]
    revoked = channel.encode(channel.Revoked([]))
    assert channel.decode(revoked[channel.PREFIX.size :]) == channel.Revoked([]) and b",true]" in revoked


SECRET = {"identity": "spiffe://a/ns/b/sa/c", "key": {"$blob": 0}, "chain": [], "roots": []}


@pytest.mark.parametrize(
    "header",
    [
        [],
        ["Release"],
        ["Release", []],
        ["Release", {}],
        [[], {}],
        5,
        "x",
        # What a worker would say that somebody has taken over: control compares and reckons with it.
        ["Applied", {"revision": "7"}],
        ["Applied", {"revision": None}],
        ["Wanted", {"names": "all"}],
        ["Wanted", {"names": {}}],
        ["HandedOver", {"moved": [], "left": [], "took_s": "soon", "pause_s": 1, "failure": ""}],
        ["NotKnown", {"kind": 5, "binds": True}],
        ["Stats", {"metrics": [], "connections": [], "pods": []}],
    ],
    ids=repr,
)
def test_what_no_build_sends_is_malformed(header: object) -> None:
    with pytest.raises(ChannelError, match="malformed"):
        channel.decode(framed(header))


def test_what_is_nested_without_end_is_malformed() -> None:
    """A worker that its peers have taken over does not end control with it."""
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(ChannelError, match="malformed"):
        channel.decode(channel.LENGTH.pack(len(deep)) + deep)


def test_fds_come_with_their_message() -> None:
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    pipes = [os.pipe() for _ in range(3)]
    a.send(Resources(1, "t", []))
    a.send(Listeners(4, ("a", "b", "c")), [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    (first, none), (second, fds) = b.receive()
    assert isinstance(first, Resources) and not none
    assert second == Listeners(4, ["a", "b", "c"])
    for fd, (read, _) in zip(fds, pipes, strict=True):
        os.write(fd, b"x")
        assert os.read(read, 1) == b"x"
        os.close(fd)
        os.close(read)
    a.close()
    b.close()


def test_a_frame_larger_than_the_socket_buffer_arrives() -> None:
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    blob = os.urandom(4 << 20)
    a.send(Resources(1, "t", [("big", blob)]))
    got = b.receive()
    while not got:
        a.flush()
        got = b.receive()
    assert isinstance(got[0][0], Resources) and got[0][0].updates[0][1] == blob
    a.close()
    b.close()


def test_the_end_of_the_other_side_is_an_error_after_what_it_sent() -> None:
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    a.send(channel.Applied(3))
    a.close()
    assert b.receive()[0][0] == channel.Applied(3)
    with pytest.raises(ChannelError, match="closed"):
        b.receive()
    b.close()


def test_what_the_other_side_said_counts_also_when_it_ends_by_a_reset() -> None:
    """It died with something of ours unread."""
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    b.send(channel.Applied(1))
    a.send(channel.Applied(3))
    a.close()
    assert b.receive()[0][0] == channel.Applied(3)
    with pytest.raises(ChannelError):
        b.receive()
    b.close()


def test_missing_fds_are_an_error() -> None:
    left, right = socket.socketpair()
    left.sendall(channel.encode(Hello(0, 1, [(0, "a"), (0, "b"), (0, "c")], "v"), fd_count=3))
    b = Channel(right)
    with pytest.raises(ChannelError, match="0 fds instead of 3"):
        b.receive()
    left.close()
    b.close()


def test_each_message_brings_as_many_fds_as_it_says() -> None:
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    pipes = [os.pipe() for _ in range(60)]
    with closing(a), closing(b):
        for first, last in ((0, 1), (1, 60)):
            a.send(Listeners(last, ("x",) * (last - first)), [write for _, write in pipes[first:last]])
        one, many = b.receive()
        assert (len(one[1]), len(many[1])) == (1, 59)
        assert [os.fstat(fd).st_ino for fd in (*one[1], *many[1])] == [os.fstat(w).st_ino for _, w in pipes]
        for fd in (*one[1], *many[1], *chain.from_iterable(pipes)):
            os.close(fd)


def test_a_full_process_receives_listeners_and_nothing_else() -> None:
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(a), closing(b):
        a.send(Listeners(0, ("x", "y")), [left.fileno(), right.fileno()])
        lowest_free = os.dup(left.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
        try:
            ((_, fds),) = b.receive()
            assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(s.fileno()).st_ino for s in (left, right)]
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(left.fileno())
            b.send(Listeners(0, ("x", "y")), fds)
            assert len(a.receive()[0][1]) == 2, "it can pass on its own as well"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_follows_a_message_whose_fds_were_lost_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    a, b = Channel(left), Channel(right)
    monkeypatch.setattr(channel_socket, "with_reserve", nullcontext)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(a), closing(b):
        a.send(Listeners(0, ("x", "y", "z")), [left.fileno()] * 3)
        lowest_free = os.dup(left.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
        try:
            ((lost, few),) = b.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert isinstance(lost, Listeners) and len(few) < 3
        with pytest.raises(channel.FdsLost, match="fds came for 3 listeners"):
            channel.with_fds(lost.names, few)
        a.send(Listeners(1, ("x", "y")), [left.fileno(), right.fileno()])
        ((message, fds),) = b.receive()
        assert message == Listeners(1, ["x", "y"])
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(s.fileno()).st_ino for s in (left, right)]
        for fd in fds:
            os.close(fd)


def test_one_message_can_carry_every_listener_of_an_agent() -> None:
    assert MOST_WORKERS * len(ROWS) <= channel.MAX_FDS


def test_listeners_without_their_fds_are_an_error() -> None:
    read, write = os.pipe()
    with pytest.raises(ChannelError, match="1 fds came for 2 listeners"):
        channel.with_fds(("a", "b"), [write])
    assert os.read(read, 1) == b"", "and what came is closed"
    os.close(read)


def test_a_private_key_is_not_in_the_repr() -> None:
    assert "secret" not in repr(Secret("spiffe://x", b"secret", [], []))


@given(st.binary(max_size=200))
def test_garbage_raises_only_channel_error(body: bytes) -> None:
    try:
        channel.decode(body)
    except ChannelError:
        pass
