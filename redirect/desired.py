"""What the kernel side is to look like: which interfaces are captured, and which addresses are the node's own.

Plain values, and what holds for the node as a whole. Who a pod is, and why it is captured, is not known here.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from redirect import host_senders
from redirect.conf import Conf
from redirect.encapsulations import encapsulation_bits
from redirect.layout import IP, NO_MAC, Flag
from redirect.packet_size import PacketSize


@dataclass(frozen=True, slots=True)
class NextHop:
    """Whom a pod hands its packets to, in one family (`version` 4 or 6), and how large they may be.

    No `mac`: it has no way off its link. On a bridge it reaches those straight whose address has the first
    `prefix_bits` of its own, and `gateway` is the one for the rest where that is another machine than this node.
    """

    version: int
    mac: bytes
    size: PacketSize
    gateway: IP | None = None
    prefix_bits: int = 0


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge that a pod's host veth is a port of."""

    ifindex: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class DesiredPod:
    """One captured pod: the host end of its veth, and the addresses that it may use behind it.

    At most one address of each family: the interface's entry in the kernel has room for that many. Frames sent in
    the pod's name go to the next hop of their family, or to a neighbour on `bridge`, and carry `mac`, the pod's own;
    frames into it the reverse. `owner`: a note of whoever captures it, kept beside its entries and given back.
    """

    ifindex: int
    ifname: str
    addresses: tuple[IP, ...]
    mac: bytes
    hops: tuple[NextHop, ...]
    flags: Flag = Flag.ENROLLED
    bridge: Bridge | None = None
    owner: str = ""

    def address(self, version: int) -> IP | None:
        return next((ip for ip in self.addresses if ip.version == version), None)

    def hop(self, version: int) -> NextHop:
        return next(hop for hop in self.hops if hop.version == version)


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What programs are told of a node besides its pods.

    `allowed_encapsulations`: names of encapsulations.NAMES that captured pods may send and receive. An address that
    has not proven who it is may open `strangers_per_s` connections to the tunnel port of each pod (0: as many as it
    likes), and `stranger_burst` at once. `is_plaintext_by_ports`: who takes a plaintext connection is chosen by its
    addresses and ports. `is_dns_open`: captured DNS goes on to its destination while no proxy is there.
    `host_traffic`: whose connections from the node pass by the proxy, `all`, `kubelet` or `none`.
    """

    is_dns_open: bool = False
    allowed_encapsulations: tuple[str, ...] = ()
    strangers_per_s: int = 0
    stranger_burst: int = 0
    is_plaintext_by_ports: bool = False
    host_traffic: str = "all"

    def conf(self, was: Conf) -> Conf:
        """In the programs' form, before the private namespaces are known.

        Who takes connections stays as it `was`, and the key by which they are chosen: workers that live on know it.
        """
        return Conf(
            0,
            0,
            0,
            0,
            NO_MAC,
            self.is_dns_open,
            encapsulation_bits(self.allowed_encapsulations),
            was.owners,
            was.takers,
            1_000_000_000 // self.strangers_per_s if self.strangers_per_s else 0,
            self.stranger_burst,
            self.is_plaintext_by_ports,
            was.choice_key or secrets.randbelow(0xFFFFFFFF) + 1,
            host_senders.initial(self.host_traffic, was.host_cgroup),
        )


NO_RULES = NodeRules()


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that `plan` compares with what is. `host_addresses`: every address of the node."""

    pods: tuple[DesiredPod, ...]
    host_addresses: frozenset[IP]
