"""Anything from the ZDS socket: a request or a ZdsViolation, and no descriptor stays open that nobody took."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.pb import zds_pb2
from agent.wire.zds import Add, Conversation, Del, Keep, SnapshotSent, ZdsViolation, ack, decode
from agent.zds.packets import MAX_FDS, PacketSocket

TEXT = st.sampled_from(["", "a", "demo", "x" * 300, "a/b", "ü"])
INFO = st.fixed_dictionaries({}, optional={"name": TEXT, "namespace": TEXT, "service_account": TEXT})
ADD = st.fixed_dictionaries({}, optional={"uid": TEXT, "workload_info": INFO})
PAYLOADS = st.one_of(
    st.fixed_dictionaries({"add": ADD}),
    st.fixed_dictionaries({"keep": st.fixed_dictionaries({"uid": TEXT})}),
    st.fixed_dictionaries({"del": st.fixed_dictionaries({"uid": TEXT})}),
    st.just({"snapshot_sent": {}}),
)
MESSAGES = PAYLOADS.map(lambda fields: zds_pb2.WorkloadRequest(**fields).SerializeToString())
CUT = st.tuples(MESSAGES, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
PACKETS = st.binary(max_size=1500) | MESSAGES | CUT


@given(PACKETS)
def test_any_packet_is_a_request_or_a_violation(packet: bytes) -> None:
    try:
        request = decode(packet)
    except ZdsViolation as violation:
        assert len(ack(str(violation))) < 1000
    else:
        assert isinstance(request, Add | Keep | Del | SnapshotSent)


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], tuple[PacketSocket, socket.socket]]]:
    path = tmp_path_factory.mktemp("zds") / "sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()

    def connect() -> tuple[PacketSocket, socket.socket]:
        ours = PacketSocket(str(path))
        theirs, _ = listener.accept()
        return ours, theirs

    with listener:
        yield connect


@contextlib.contextmanager
def null_device() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


@given(
    st.lists(st.tuples(PACKETS, st.sampled_from([0, 0, 1, 1, 2, 7, MAX_FDS]), st.booleans()), max_size=6),
    st.booleans(),
)
def test_every_descriptor_is_taken_or_closed(
    pair: Callable[[], tuple[PacketSocket, socket.socket]],
    sent: list[tuple[bytes, int, bool]],
    is_shut: bool,
) -> None:
    before = held()

    async def receive() -> None:
        ours, theirs = pair()
        talk = Conversation()
        with contextlib.closing(ours), theirs, null_device() as null:
            for packet, count, is_credentialed in sent:
                send(theirs, packet, [null] * count, is_credentialed=is_credentialed)
            if is_shut:
                theirs.shutdown(socket.SHUT_WR)
            for _ in sent:
                packet = await ours.receive()
                if packet is None:
                    break
                with packet, contextlib.suppress(ZdsViolation):
                    request = talk.receive(packet.data, packet.descriptors, is_cut=packet.is_cut)
                    if isinstance(request, Add):
                        fd = packet.take()
                        assert Path(f"/proc/self/fd/{fd}").samefile(os.devnull)
                        assert not os.get_inheritable(fd)
                        os.close(fd)

    asyncio.run(receive())
    assert held() == before


def send(sock: socket.socket, packet: bytes, fds: list[int], *, is_credentialed: bool) -> None:
    """Credentials beside the descriptors change nothing."""
    raw = b"".join(fd.to_bytes(4, "little") for fd in fds)
    ancillary: list[tuple[int, int, bytes]] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, raw)] if fds else []
    if is_credentialed:
        ids = b"".join(each.to_bytes(4, "little") for each in (os.getpid(), os.getuid(), os.getgid()))
        ancillary.append((socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ids))
    sock.sendmsg([packet], ancillary)


def test_descriptors_beyond_the_limit_of_this_process_are_a_cut_packet(
    pair: Callable[[], tuple[PacketSocket, socket.socket]],
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def receive() -> None:
        ours, theirs = pair()
        with contextlib.closing(ours), theirs, null_device() as null:
            send(theirs, b"x", [null] * 9, is_credentialed=False)
            before = held()
            used = set(map(int, os.listdir("/proc/self/fd")))
            fourth_free = [number for number in range(len(used) + 9) if number not in used][3]
            resource.setrlimit(resource.RLIMIT_NOFILE, (fourth_free, limits[1]))
            try:
                packet = await ours.receive()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert packet is not None and packet.is_cut and 0 < packet.descriptors < 9
            with packet:
                pass
            assert held() == before

    asyncio.run(receive())
