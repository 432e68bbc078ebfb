"""What this kernel can do: each answer comes from asking it, never from its version number.

A missing necessity stops the agent with its name; a missing option only changes the way (clsact instead of
tcx). Which versions have it: docs/KERNEL.md#features.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

from redirect import map_memory, migration, netns, sock_diag, sys_bpf
from redirect.errors import KernelTooOld, NotRoot

_LOOPBACK = 1
LIMITS = {
    "has_tcx": "no tcx (Linux 6.6): programs are clsact filters in its place, and a pod whose interface has a qdisc "
    "`ingress` cannot be captured",
    "has_sock_destroy": "this kernel destroys no sockets (CONFIG_INET_DIAG_DESTROY): connections of a pod that comes "
    "or goes end only when they time out, unless a worker knows them",
    "moves_queues": "connections that wait do not move from one listener to another (Linux 5.14): those that no worker "
    "has accepted yet when a listener closes are reset",
}
"""What does not work as it should without a feature, by its name."""


@dataclass(frozen=True, slots=True)
class Features:
    """All are necessary but `has_tcx`, `has_sock_destroy` and `moves_queues`, without which there is a limit."""

    has_bpf: bool
    has_map_memory: bool
    has_sk_lookup: bool
    has_tcx: bool
    has_ipv6: bool
    has_inet_diag: bool
    has_sock_destroy: bool
    moves_queues: bool

    def require(self) -> None:
        """Raises KernelTooOld, or NotRoot, naming what is missing."""
        if not self.has_bpf:
            raise KernelTooOld(
                "bpf(2) answers ENOSYS or EPERM: CONFIG_BPF_SYSCALL is off, or a lockdown forbids it"
            )
        if not self.has_map_memory:
            raise NotRoot(
                "maps count against RLIMIT_MEMLOCK on this kernel (before Linux 5.11), and the limit is too low: give "
                "the agent CAP_SYS_RESOURCE, or no limit (LimitMEMLOCK=infinity, `ulimit -l unlimited`)"
            )
        if not self.has_sk_lookup:
            raise KernelTooOld("programs of type sk_lookup cannot be attached: ztun needs Linux 5.10")
        if not self.has_ipv6:
            raise KernelTooOld(
                "the kernel has no IPv6, which ztun's own sockets use also for IPv4: boot without ipv6.disable=1"
            )
        if not self.has_inet_diag:
            raise KernelTooOld(
                "TCP sockets cannot be listed: `modprobe tcp_diag` (CONFIG_INET_TCP_DIAG), without which connections "
                "of pods that come or go cannot be found"
            )

    @property
    def limits(self) -> tuple[str, ...]:
        """What does not work here as it should, one line each."""
        return tuple(text for name, text in LIMITS.items() if not getattr(self, name))


def probe() -> Features:
    """Asks the kernel, in the calling thread's network namespace. Raises NotRoot, OSError."""
    if os.geteuid() != 0:
        raise NotRoot("the kernel side needs root: run as root, or from the DaemonSet with its capabilities")
    with netns.OWN.open("rb") as namespace:
        has_sk_lookup = _can_query(namespace.fileno(), sys_bpf.BPF_SK_LOOKUP)
    has_inet_diag = sock_diag.can_list()
    has_bpf = _can_query(-1, -1, unless=(errno.ENOSYS, errno.EPERM))
    return Features(
        has_bpf=has_bpf,
        has_map_memory=has_bpf and map_memory.ensure(),
        has_sk_lookup=has_sk_lookup,
        has_tcx=has_tcx(),
        has_ipv6=_has_ipv6(),
        has_inet_diag=has_inet_diag,
        has_sock_destroy=has_inet_diag and sock_diag.can_destroy(),
        moves_queues=migration.moves_queues(),
    )


def has_tcx() -> bool:
    """Whether programs can be attached without a qdisc (Linux 6.6)."""
    return _can_query(_LOOPBACK, sys_bpf.BPF_TCX_INGRESS)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM):
            return True
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False


def _can_query(
    target: int, attach_type: int, unless: tuple[int, ...] = (errno.ENOSYS, errno.EPERM, errno.EINVAL)
) -> bool:
    attributes = struct.pack("=iiIIQI", target, attach_type, 0, 0, 0, 0)
    try:
        sys_bpf.call(sys_bpf.PROG_QUERY, attributes)
    except OSError as error:
        # ENOENT: the kernel knows the hook and nothing is attached.
        return error.errno not in unless
    return True
