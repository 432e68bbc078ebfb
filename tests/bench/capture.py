"""Puts an Envoy where ztun's proxy stands: behind the product's own eBPF capture, under an instance of its own.

The same programs, private namespaces and veth pairs as ztun's, on the same nodes, for another pod. The agent hands
the kernel listeners that it made itself; Envoy's are copied out of the running process (pidfd_getfd).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from agent.lab.blueprint import LabError
from agent.lab.topology import NodePlace, PodPlace
from redirect import host_addresses
from redirect.desired import Desired
from redirect.layout import SLOTS
from redirect.locate import locate
from redirect.netns import entered
from redirect.reconcile import Redirection

_PIDFD_GETFD = 438
_SYSCALL = ctypes.CDLL(None, use_errno=True).syscall


class Capture:
    """One node's capture of one pod for a proxy that is not ztun. Nothing is made before `prepare`."""

    def __init__(self, node: NodePlace, instance: str, run_dir: Path) -> None:
        self._node = node
        self.instance = instance
        self._redirection = Redirection(instance, run_dir)

    @property
    def pod_side(self) -> Path:
        """The private namespace that speaks to the pod."""
        return self._redirection.private_namespaces[0]

    @property
    def net_side(self) -> Path:
        """The private namespace that speaks to everybody else."""
        return self._redirection.private_namespaces[1]

    def prepare(self) -> None:
        """Programs and private namespaces; nothing is captured yet."""
        with entered(self._node.netns):
            self._redirection.prepare()

    def begin(self, pod: PodPlace, proxy: int, port: int, sockets: int) -> bool:
        """Captures the pod for the process `proxy`; False while it does not yet listen on all its sockets.

        The kernel is given one of them and spreads connections over their SO_REUSEPORT group.
        """
        with ExitStack() as stack:
            found = [stack.enter_context(sock) for sock in listening_sockets(proxy, port)]
            if len(found) < sockets:
                return False
            # In all slots: an Envoy here has one listener, and nobody dials the ports of the other slots.
            self._redirection.set_listeners(dict.fromkeys(SLOTS, found[0].fileno()))
        with entered(self._node.netns):
            self._redirection.apply(_desired(pod))
        return True

    def taken(self) -> int:
        """Connections that the kernel has handed to the proxy so far, from both sides."""
        return sum(count for (_, reason), count in self._redirection.stats().items() if reason == "PICKED")

    def remove(self) -> None:
        """Takes everything of it out of the kernel. Safe at any time."""
        if self._node.netns.exists():
            with entered(self._node.netns), closing(self._redirection):
                self._redirection.uninstall()
            with suppress(FileNotFoundError):
                self._redirection.pins.run_dir.rmdir()


def _desired(pod: PodPlace) -> Desired:
    place = locate(netns=pod.netns)
    if place.refusal:
        raise LabError(f"{pod.key} cannot be captured: {place.refusal}")
    return Desired((place.desired(),), host_addresses.local())


def listening_sockets(pid: int, port: int) -> Iterator[socket.socket]:
    """Copies of a process's TCP sockets that listen on a port, whatever their namespace."""
    with ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        for name in os.listdir(f"/proc/{pid}/fd"):
            sock = _copied(pid, pidfd, int(name))
            if sock is not None and _is_listening(sock, port):
                yield sock
            elif sock is not None:
                sock.close()


def _copied(pid: int, pidfd: int, fd: int) -> socket.socket | None:
    """None: it is not a socket, or is closed meanwhile."""
    try:
        is_socket = os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    except FileNotFoundError:
        return None
    copied = _SYSCALL(_PIDFD_GETFD, pidfd, fd, 0) if is_socket else -1
    if is_socket and copied < 0 and ctypes.get_errno() not in (errno.EBADF, errno.ESRCH):
        raise OSError(ctypes.get_errno(), f"pidfd_getfd of descriptor {fd} of process {pid}")
    return socket.socket(fileno=copied) if copied >= 0 else None


def _is_listening(sock: socket.socket, port: int) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and sock.getsockname()[1] == port
