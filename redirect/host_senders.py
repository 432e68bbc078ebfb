"""Whose connections from this node to captured pods pass by the proxy, as `conf` has it: of a control group, or these.

A group is known by its number: the inode of its directory in the hierarchy of version 2, bpf_skb_cgroup_id(). Packets
of other nodes and of pods are captured whatever is here.
"""

from __future__ import annotations

EVERYBODY = 0
NOBODY = (1 << 64) - 1


def initial(mode: str, was: int) -> int:
    """Before anybody has looked for the kubelet: the group that was known stays, so that its probes go on."""
    if mode == "kubelet":
        return was or NOBODY
    return {"all": EVERYBODY, "none": NOBODY}[mode]
