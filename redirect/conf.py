"""The one value of the map `conf`: what the programs are told of a node besides its pods.

Part of `layout`, which has the rest of bpf/include/ztun_types.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conf:
    """The one value of `conf`: the private namespaces as the host sees them, and what the node allows.

    `allowed_encapsulations` as `encapsulations` has them. `owners`: how many have rings; 0: no SYN is held.
    `takers`: how many have listeners of their own in `takers`; 0: the listeners' group decides. `stranger_every_ns`:
    between two SYNs of a stranger to a pod's tunnel port, on average; 0: no limit. `stranger_burst`: so many at once.
    """

    FORMAT = struct.Struct("=IIII6sBBIBB2xIII4xQ")

    pod_side_ifindex: int
    net_side_ifindex: int
    pod_side_nsid: int
    net_side_nsid: int
    net_side_mac: bytes
    is_dns_open: bool = False
    allowed_encapsulations: int = 0
    owners: int = 0
    takers: int = 0
    stranger_every_ns: int = 0
    stranger_burst: int = 0
    is_plaintext_by_ports: bool = False
    """They go to the takers by addresses and ports, not by turns."""
    choice_key: int = 0
    """Of that choice, and of that of the owner who gets a held SYN."""
    host_cgroup: int = 0
    """Whose connections from the node to captured pods pass by the proxy, as `host_senders` has it."""

    def encode(self) -> bytes:
        return self.FORMAT.pack(
            self.pod_side_ifindex,
            self.net_side_ifindex,
            self.pod_side_nsid,
            self.net_side_nsid,
            self.net_side_mac,
            self.is_dns_open,
            self.owners,
            self.allowed_encapsulations,
            self.takers,
            self.is_plaintext_by_ports,
            self.stranger_every_ns,
            self.stranger_burst,
            self.choice_key,
            self.host_cgroup,
        )

    @classmethod
    def decode(cls, raw: bytes) -> Conf:
        a, b, c, d, mac, dns, owners, allowed, takers, ports, every_ns, burst, key, host = cls.FORMAT.unpack(
            raw
        )
        return cls(
            a, b, c, d, mac, bool(dns), allowed, owners, takers, every_ns, burst, bool(ports), key, host
        )
