"""Lists the TCP sockets of a network namespace, and destroys those of an address (`ss -t`, `ss -K`).

Raw NETLINK_SOCK_DIAG, because pyroute2 cannot destroy. A destroyed socket resets its peer, by way of whatever
is attached at that moment. struct inet_diag_req_v2 and inet_diag_msg: include/uapi/linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redirect import netns
from redirect.layout import IP, address_of

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_ESTABLISHED, TCP_SYN_RECV, TCP_TIME_WAIT, TCP_LISTEN, TCP_NEW_SYN_RECV = 1, 3, 6, 10, 12
_STATES = ~(1 << TCP_LISTEN) & 0x1FFF
_NO_STATE = 0
_HALF_OPEN = 1 << TCP_SYN_RECV | 1 << TCP_NEW_SYN_RECV

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")
_MESSAGE = struct.Struct("=BBBB")
_ID = struct.Struct(">HH16s16s")
_ID_BYTES = 48
_NO_COOKIE = b"\xff" * 8
_OWNER = struct.Struct("=I")
_OWNER_AT = 64
_ATTRIBUTES_AT = 72
_ATTRIBUTE = struct.Struct("=HH")
_V6_ONLY = 11
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One socket that is not listening. `id` is the kernel's own name of it, cookie included."""

    family: int
    local: IP
    local_port: int
    remote: IP
    remote_port: int
    state: int
    id: bytes

    @property
    def is_open(self) -> bool:
        return self.state != TCP_TIME_WAIT


@dataclass(frozen=True, slots=True)
class Listener:
    """Where somebody listens. `is_v6_only`: of a socket of IPv6 that takes no IPv4."""

    local: IP
    port: int
    is_v6_only: bool = False

    def accepts(self, address: IP) -> bool:
        """Whether a connection to this address of its namespace is its."""
        if not self.local.is_unspecified:
            return self.local == address
        return self.local.version == address.version or (self.local.version == 6 and not self.is_v6_only)


def tcp_sockets() -> list[TcpSocket]:
    """Every TCP socket of the calling thread's namespace but the listeners, both families."""
    with _opened() as netlink:
        return list(_dump(netlink))


def listening_ports(among: Iterable[int]) -> frozenset[int]:
    """Those on which TCP listens in the calling thread's namespace; none where the kernel lists no sockets.

    `ss -tln sport = :PORT`: the kernel picks them out, because there may be any number of others.
    """
    found: set[int] = set()
    with _opened() as netlink, suppress(FileNotFoundError):
        for port in among:
            identifier = port.to_bytes(2, "big").ljust(_ID_BYTES, b"\0")
            found.update(s.local_port for s in _dump(netlink, 1 << TCP_LISTEN, identifier))
    return frozenset(found)


def listeners() -> list[Listener]:
    """Who listens in the calling thread's namespace (`ss -tln`)."""
    found = []
    with _opened() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            _send(netlink, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, bytes(_ID_BYTES), 1 << TCP_LISTEN)
            for body in _answers(netlink):
                each = _parse(body)
                found.append(Listener(each.local, each.local_port, _is_v6_only(body)))
    return found


def half_open(namespace: Path) -> int:
    """How many connections to listeners of a namespace are in their handshake (`ss -t state syn-recv`)."""
    with netns.entered(namespace), _opened() as netlink:
        return sum(1 for _ in _dump(netlink, _HALF_OPEN))


def open_to(addresses: Collection[IP], namespace: Path) -> int:
    """How many connections of a namespace are open to one of the addresses, their last packets included."""
    with netns.entered(namespace), _opened() as netlink:
        return sum(1 for s in _dump(netlink) if s.is_open and s.remote in addresses)


def destroy(addresses: Collection[IP]) -> int:
    """Closes every connection from or to one of the addresses in the thread's namespace; how many.

    Those that the kernel does not destroy are left: all of them without CONFIG_INET_DIAG_DESTROY (`can_destroy`).
    """
    return sum(destroy_where(lambda socket: socket.local in addresses or socket.remote in addresses).values())


def destroy_where(is_doomed: Callable[[TcpSocket], bool]) -> dict[TcpSocket, bool]:
    """The same for those that are doomed, and whether the kernel destroyed them."""
    with _opened() as netlink:
        doomed = [s for s in _dump(netlink) if is_doomed(s)]
        return {s: _destroy(netlink, s.family, s.id) for s in doomed}


def owner(local: tuple[IP, int], remote: tuple[IP, int]) -> int | None:
    """The uid of who made the socket that is open from `local` to `remote` in the calling thread's namespace.

    None where there is none, or its owner has closed it or shut it down: the kernel says 0, which is root, of a socket
    that nobody has any more. Raises OSError where the kernel tells of no sockets.
    """
    family = socket.AF_INET if local[0].version == 4 else socket.AF_INET6
    ends = _ID.pack(local[1], remote[1], local[0].packed.ljust(16, b"\0"), remote[0].packed.ljust(16, b"\0"))
    with _opened() as netlink:
        _send(netlink, SOCK_DIAG_BY_FAMILY, 0, family, (ends + bytes(4) + _NO_COOKIE).ljust(_ID_BYTES, b"\0"))
        try:
            body = next(_answers(netlink), b"")
        except OSError as error:
            # What is asked of a family whose sockets it does not tell of (no tcp_diag) is "no such file" too.
            if error.errno == errno.ENOENT and can_list():
                return None
            raise
    if not body or body[1] != TCP_ESTABLISHED:
        return None
    (uid,) = _OWNER.unpack_from(body, _OWNER_AT)
    return int(uid)


def can_list() -> bool:
    """Whether the kernel lists TCP sockets at all: asks for none."""
    with _opened() as netlink:
        try:
            list(_dump(netlink, _NO_STATE))
        except FileNotFoundError:
            return False
    return True


def can_destroy() -> bool:
    """Whether the kernel destroys sockets: asks for one that cannot exist. To be asked where it can list them."""
    with _opened() as netlink:
        return _ask_to_destroy(netlink, socket.AF_INET, bytes(_ID_BYTES)) != errno.EOPNOTSUPP


@contextmanager
def _opened() -> Iterator[socket.socket]:
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as netlink:
        netlink.bind((0, 0))
        yield netlink


def _dump(
    netlink: socket.socket, states: int = _STATES, identifier: bytes = bytes(_ID_BYTES)
) -> Iterator[TcpSocket]:
    for family in (socket.AF_INET, socket.AF_INET6):
        _send(netlink, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, identifier, states)
        yield from [_parse(body) for body in _answers(netlink)]


def _destroy(netlink: socket.socket, family: int, identifier: bytes) -> bool:
    code = _ask_to_destroy(netlink, family, identifier)
    # Closed by itself meanwhile; or one that waits for nothing any more (TIME_WAIT, an orphaned FIN_WAIT2), which
    # kernels refuse to destroy, Linux 5.10 as if it could destroy none at all. The others must not be left for it.
    if code not in (0, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code))
    return code == 0


def _ask_to_destroy(netlink: socket.socket, family: int, identifier: bytes) -> int:
    """The kernel's errno, 0 when it is done."""
    _send(netlink, SOCK_DESTROY, NLM_F_ACK, family, identifier)
    try:
        list(_answers(netlink))
    except OSError as error:
        return error.errno or 0
    return 0


def _send(
    netlink: socket.socket, kind: int, flags: int, family: int, identifier: bytes, states: int = _STATES
) -> None:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states, identifier)
    netlink.send(_HEADER.pack(_HEADER.size + len(request), kind, flags | NLM_F_REQUEST, 0, 0) + request)


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The bodies of one answer, up to its end. Raises OSError for an error the kernel reports."""
    while True:
        data = netlink.recv(_RECEIVE_BYTES)
        while data:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                # A list that could not be made ends like one that is empty, but for the error in its end: so it is
                # where inet_diag is loaded and tcp_diag is not.
                (code,) = struct.unpack_from("=i", body)
                if code < 0:
                    raise OSError(-code, os.strerror(-code))
                return
            yield body


def _parse(body: bytes) -> TcpSocket:
    family, state, *_ = _MESSAGE.unpack_from(body)
    identifier = body[_MESSAGE.size : _MESSAGE.size + _ID_BYTES]
    local_port, remote_port, local, remote = _ID.unpack_from(identifier)
    return TcpSocket(
        family, _ip(family, local), local_port, _ip(family, remote), remote_port, state, identifier
    )


def _is_v6_only(body: bytes) -> bool:
    at = _ATTRIBUTES_AT
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if kind == _V6_ONLY:
            return bool(body[at + _ATTRIBUTE.size])
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return False


def _ip(family: int, raw: bytes) -> IP:
    """An IPv4 address also where an IPv6 socket speaks IPv4."""
    return address_of(raw if family == socket.AF_INET6 else b"\0" * 10 + b"\xff\xff" + raw[:4])
