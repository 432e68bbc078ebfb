"""Sockets are destroyed one by one: what the kernel says of one decides about no other."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from redirect import sock_diag
from redirect.layout import IP, parse_ip

HEADER = struct.Struct("=IHHII")
POD = parse_ip("10.0.0.1")
ESTABLISHED = 1


def message(kind: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, 0, 0, 0) + body


def listed(port: int, state: int) -> bytes:
    """One socket from 10.0.0.1 to 10.0.0.2, as inet_diag tells it."""
    name = struct.pack(">HH4s12x4s12x", port, 80, POD.packed, bytes([10, 0, 0, 2])) + bytes(12)
    return message(sock_diag.SOCK_DIAG_BY_FAMILY, bytes([socket.AF_INET, state, 0, 0]) + name)


class Kernel:
    """Two sockets; `answer` to each wish to destroy one, by its port."""

    def __init__(self, *ports: int, **answers: int) -> None:
        self.ports = ports
        self.answers = {int(name.removeprefix("port")): code for name, code in answers.items()}
        self.asked: list[int] = []
        self._replies: list[bytes] = []

    def send(self, data: bytes) -> None:
        _, kind, flags, _, _ = HEADER.unpack_from(data)
        (family,) = struct.unpack_from("=B", data, HEADER.size)
        if kind == sock_diag.SOCK_DESTROY:
            (port,) = struct.unpack_from(">H", data, HEADER.size + 8)
            self.asked.append(port)
            code = struct.pack("=i", -self.answers.get(port, 0))
            self._replies.append(message(sock_diag.NLMSG_ERROR, code))
        else:
            assert flags & sock_diag.NLM_F_DUMP
            rows = [listed(port, ESTABLISHED) for port in self.ports] if family == socket.AF_INET else []
            self._replies.append(b"".join(rows) + message(sock_diag.NLMSG_DONE, bytes(4)))

    def recv(self, _: int) -> bytes:
        return self._replies.pop(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel(1, 2, 3)

    @contextmanager
    def opened() -> Iterator[Kernel]:
        yield made

    monkeypatch.setattr(sock_diag, "_opened", opened)
    yield made


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT])
def test_one_that_cannot_be_destroyed_does_not_save_the_others(kernel: Kernel, code: int) -> None:
    """Linux 5.10 answers EOPNOTSUPP for a TIME_WAIT, as a kernel does that destroys none."""
    kernel.answers = {1: code}
    assert sock_diag.destroy([POD]) == 2
    assert kernel.asked == [1, 2, 3]
    assert sock_diag.destroy([parse_ip("10.9.9.9")]) == 0


def test_another_error_is_one(kernel: Kernel) -> None:
    kernel.answers = {1: errno.EPERM}
    with pytest.raises(PermissionError):
        sock_diag.destroy([POD])


@pytest.mark.parametrize(("code", "can"), [(errno.ENOENT, True), (errno.EOPNOTSUPP, False)])
def test_whether_the_kernel_destroys_any_is_asked_apart(kernel: Kernel, code: int, can: bool) -> None:
    kernel.answers = {0: code}
    assert sock_diag.can_destroy() is can


def test_here_sockets_can_be_listed() -> None:
    assert sock_diag.can_list()


# -- whose a connection is


def end(sock: socket.socket, *, far: bool = False) -> tuple[IP, int]:
    name = sock.getpeername() if far else sock.getsockname()
    return parse_ip(name[0].removeprefix("::ffff:")), name[1]


@contextmanager
def connection(family: socket.AddressFamily, host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of this process to itself: the client's end, the server's."""
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    with client, server:
        yield client, server


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_says_whose_a_connection_is(family: socket.AddressFamily, host: str) -> None:
    with connection(family, host) as (client, server):
        found = sock_diag.owner(end(server, far=True), end(server))
        assert found == os.getuid()
        assert sock_diag.owner((end(client)[0], 1), end(server)) is None, "nobody has that one"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a socket as somebody else")
def test_it_is_whose_who_made_the_socket_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # An ordinary process: threads of this one would change the user of all of it.
        code = (
            "import os, socket, sys; os.setuid(65534);"
            "s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); input()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(listener.getsockname()[1])], stdin=subprocess.PIPE
        )
        server, _ = listener.accept()
        try:
            with server:
                assert sock_diag.owner(end(server, far=True), end(server)) == 65534
        finally:
            process.communicate(b"\n", timeout=30)


@pytest.mark.parametrize("how", ["closed", "done with writing"])
def test_of_what_nobody_has_any_more_nothing_is_said(how: str) -> None:
    """The kernel calls such a socket root's."""
    with connection(socket.AF_INET, "127.0.0.1") as (client, server):
        ends = end(server, far=True), end(server)
        client.close() if how == "closed" else client.shutdown(socket.SHUT_WR)
        assert sock_diag.owner(*ends) is None


def test_a_list_that_the_kernel_cannot_make_is_not_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a protocol that no kernel lists, as TCP is where tcp_diag is missing: the dump ends with ENOENT."""
    assert sock_diag.can_list()
    monkeypatch.setattr(socket, "IPPROTO_TCP", socket.IPPROTO_RSVP)
    assert not sock_diag.can_list()
    with pytest.raises(FileNotFoundError):
        sock_diag.tcp_sockets()
