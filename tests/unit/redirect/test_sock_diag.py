"""Sockets are destroyed one by one: what the kernel says of one decides about no other."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from redirect import sock_diag
from redirect.layout import parse_ip

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
