"""What the kernel side is to look like: which interfaces are captured, and which addresses are the node's own.

Plain values. Who a pod is, and why it is captured, is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from redirect.layout import IP, Flag


@dataclass(frozen=True, slots=True)
class DesiredPod:
    """One captured pod: the host end of its veth, and the addresses that it may use behind it.

    `gateway_mac` is the destination of frames that are re-injected as if the pod had sent them. At most one
    address of each family: the interface's entry in the kernel has room for that many.
    """

    ifindex: int
    ifname: str
    addresses: tuple[IP, ...]
    gateway_mac: bytes
    flags: int = Flag.ENROLLED

    def address(self, version: int) -> IP | None:
        return next((ip for ip in self.addresses if ip.version == version), None)


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that `plan` compares with what is. `host_addresses`: every address of the node."""

    pods: tuple[DesiredPod, ...]
    host_addresses: frozenset[IP]
