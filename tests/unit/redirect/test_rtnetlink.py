"""Links read raw against pyroute2 in the test's own namespace, and answers that are not whole."""

from __future__ import annotations

import errno
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from redirect import locate, netlink, netns, rt_rows, rtnetlink
from redirect.errors import PodNotFound
from redirect.netlink import NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR
from redirect.rtnetlink import RTM_NEWLINK
from redirect.words import Words

HEADER = struct.Struct("=IHHII")


def message(kind: int, body: bytes = bytes(4), flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(ours, the kernel's end)"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        yield ours, theirs


def test_links_are_those_that_pyroute2_reads() -> None:
    def expected() -> dict[int, tuple[str, int]]:
        with IPRoute() as ip:
            return {link["index"]: (link.get("ifname"), link.get("link") or 0) for link in ip.get_links()}

    # Other tests make and remove links of this namespace meanwhile.
    before, ours, after = expected(), rtnetlink.links(), expected()
    while before != after:
        before, ours, after = after, rtnetlink.links(), expected()
    assert {row.ifindex: (row.ifname, row.peer) for row in ours.values()} == after


def test_what_is_told_in_the_same_words_is_read_once_and_what_changes_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[bytes] = []
    ask = netlink.ask
    monkeypatch.setattr(netlink, "ask", lambda *given: answers or ask(*given))
    # The loopback alone: other tests set links of this namespace up and down meanwhile.
    before = rtnetlink.links()
    assert rtnetlink.links()[1] is before[1]
    (body,) = ask(rtnetlink.RTM_GETLINK, rtnetlink._LINK.pack(0, 0, 1, 0, 0))
    answers.append(body)
    (row,) = rtnetlink.links().values()
    name = row.ifname.encode()
    answers[0] = body.replace(name + b"\0", b"x" * len(name) + b"\0")
    (changed,) = rtnetlink.links().values()
    assert changed.ifname == "x" * len(name)


def test_what_is_told_no_more_is_forgotten_and_short_lists_forget_no_long_one() -> None:
    read: list[bytes] = []

    def row(body: bytes) -> int:
        read.append(body)
        return len(read)

    words = Words(row, slack=10)
    long = [b"%d" % number for number in range(60)]
    first = words.rows(long)
    assert words.rows([b"x"]) == [61] and words.rows(long) == first and len(read) == 61
    for number in range(1000):
        words.rows([b"y%d" % number])
    assert len(words._known) <= 2 * len(long) + 10


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own")
def test_counters_and_timers_that_run_make_nobody_read_an_interface_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node has hundreds, each with packets, and on a bridge with timers as well."""
    read: list[str] = []
    row_of = rtnetlink._row

    def counting(body: bytes) -> rtnetlink.LinkRow:
        row = row_of(body)
        read.append(row.ifname)
        return row

    name = f"hlinks{os.getpid()}"
    try:
        with netns.entered(netns.ensure(name)), IPRoute() as ip:
            ip.link("add", ifname="br", kind="bridge")
            (bridge,) = ip.link_lookup(ifname="br")
            for number in range(10):
                ip.link("add", ifname=f"o{number}", kind="veth", peer={"ifname": f"i{number}"})
                for ifname in (f"o{number}", f"i{number}"):
                    ip.link("set", index=ip.link_lookup(ifname=ifname)[0], state="up")
                ip.link("set", index=ip.link_lookup(ifname=f"o{number}")[0], master=bridge)
            ip.link("set", index=bridge, state="up")
            ip.addr("add", index=bridge, address="10.3.0.1", prefixlen=24)
            monkeypatch.setattr(rtnetlink, "_told", rtnetlink._Listed())
            monkeypatch.setattr(rtnetlink, "_row", counting)
            settled(ip)
            before, words = rtnetlink.links(), listed(ip)
            read.clear()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.sendto(b"x", ("10.3.0.255", 9))  # to every port
            assert listed(ip) != words, "nothing ran"
            assert rtnetlink.links() == before and not read
            ip.link("set", index=ip.link_lookup(ifname="o3")[0], mtu=1400)
            changed = rtnetlink.links()
            assert "o3" in read and {*read} <= {"o3", "br"}, "of a bridge, the port's is the least"
            assert {row.mtu_bytes for row in changed.values() if row.ifname == "o3"} == {1400}
            assert [row.received for row in changed.values()] == [0] * len(changed)
    finally:
        netns.remove(name)


def settled(ip: IPRoute) -> None:
    """Every port forwards: until then their states change by themselves."""
    deadline_s = time.monotonic() + 60
    while rtnetlink.links() != rtnetlink.links() or not all(
        row.is_up for row in rtnetlink.links().values() if row.ifname != "lo"
    ):
        assert time.monotonic() < deadline_s, "they do not settle"


def listed(ip: IPRoute) -> list[bytes]:
    return netlink.ask(rtnetlink.RTM_GETLINK, rtnetlink._LINK.pack(0, 0, 0, 0, 0), netlink.NLM_F_DUMP)


def test_interfaces_that_are_no_more_are_forgotten_and_short_lists_forget_no_long_one() -> None:
    (body,) = netlink.ask(rtnetlink.RTM_GETLINK, rtnetlink._LINK.pack(0, 0, 1, 0, 0))

    def numbered(first: int, count: int) -> list[bytes]:
        return [body[:4] + struct.pack("=i", index) + body[8:] for index in range(first, first + count)]

    told = rtnetlink._Listed(slack=10)
    long = told.rows(numbered(1, 60))
    assert [*told.rows(numbered(200, 2))] == [200, 201]
    again = told.rows(numbered(1, 60))
    assert all(again[index] is row for index, row in long.items()), "they were read anew"
    for first in range(300, 900):
        told.rows(numbered(first, 1))
    assert len(told._known) <= 2 * 60 + 10


def test_one_link_or_none() -> None:
    loopback = rtnetlink.link(1)
    assert loopback is not None and (loopback.ifname, loopback.kind) == ("lo", "")
    assert rtnetlink.link(0x7FFFFFFF) is None


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/ns/mnt"])
def test_what_is_no_network_namespace_has_no_number(path: str) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        rtnetlink.nsid(Path(path))


def test_a_pipe_in_the_place_of_a_namespace_is_not_waited_for(tmp_path: Path) -> None:
    pipe, said = tmp_path / "pipe", queue.Queue[str]()
    os.mkfifo(pipe)

    def look() -> None:
        try:
            with locate.held(pipe):
                said.put("a namespace")
        except PodNotFound as error:
            said.put(str(error))

    threading.Thread(target=look, daemon=True).start()
    try:
        assert said.get(timeout=10) == f"{pipe} is not a network namespace"
    finally:
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_a_socket_in_the_place_of_a_namespace_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        with pytest.raises(PodNotFound, match="is not a network namespace"), locate.held(path):
            pass


def test_a_dump_is_all_of_its_datagrams(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    theirs.send(message(RTM_NEWLINK, b"one.") + message(RTM_NEWLINK, b"two."))
    theirs.send(message(RTM_NEWLINK, b"three...") + message(NLMSG_DONE))
    assert netlink._answer(ours, is_dump=True) == ([b"one.", b"two.", b"three..."], True)


def test_a_list_that_is_too_long_is_not_read_to_its_end(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    theirs.send(message(RTM_NEWLINK, b"one.") + message(RTM_NEWLINK, b"two."))
    assert netlink._answer(ours, is_dump=True, at_most=2) == ([b"one.", b"two."], True)


def test_an_interrupted_dump_is_not_whole(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    theirs.send(message(RTM_NEWLINK, flags=NLM_F_DUMP_INTR) + message(NLMSG_DONE))
    assert netlink._answer(ours, is_dump=True)[1] is False


def test_a_dump_that_failed_half_way_is_an_error(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    theirs.send(message(RTM_NEWLINK, b"one.") + message(NLMSG_DONE, struct.pack("=i", -errno.ENOBUFS)))
    with pytest.raises(OSError, match="No buffer space"):
        netlink._answer(ours, is_dump=True)


def test_the_kernel_says_so_of_a_list_that_it_cannot_make() -> None:
    """Addresses of an interface that is not there: the answer is an end alone, with the error in it."""
    with pytest.raises(OSError, match="No such device"):
        rt_rows.addresses(2**31 - 1)


def test_a_refusal_is_an_error_with_its_number(kernel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = kernel
    theirs.send(message(NLMSG_ERROR, struct.pack("=i", -19)))
    with pytest.raises(OSError, match="No such device"):
        netlink._answer(ours, is_dump=False)
