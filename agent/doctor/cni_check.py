"""Which CNI makes this node's pods, and whether ztun can capture what it makes. The judgement is pure."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from agent.cni.conflist import SUFFIXES, NoConfiguration, parsed
from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site

BY_VETH = {
    "bridge": "pods on a bridge",
    "ptp": "routed pods",
    "calico": "routed pods",
    "flannel": "pods on a bridge",
    "aws-cni": "routed pods",
    "azure-vnet": "pods on a bridge, or routed",
    "weave-net": "pods on a bridge",
}
PAST_VETHS = {
    "macvlan": "pods on macvlan",
    "ipvlan": "pods on ipvlan",
    "vlan": "pods on VLAN devices",
    "sriov": "pods with a function of a network card",
    "antrea": "pods on an Open vSwitch",
    "ovn-k8s-cni-overlay": "pods on an Open vSwitch",
    "ovs": "pods on an Open vSwitch",
    "host-device": "pods with a device of the node",
    "tap": "pods with a tap device",
    "ib-sriov-cni": "pods with a function of a network card",
}
"""Kinds whose pods have no veth on the node, or whose veths are on something that is no bridge of the kernel's."""
BESIDE = frozenset(
    {
        *(
            "bandwidth",
            "dhcp",
            "dummy",
            "firewall",
            "host-local",
            "loopback",
            "portmap",
            "sbr",
            "static",
            "tuning",
            "vrf",
        ),
        *("istio-cni", "linkerd-cni", "ztun-cni"),
    }
)
"""They change an interface that another has made."""
CAPTURABLE = (
    "use a CNI whose pods are behind a veth (bridge, ptp, calico, flannel), or keep such pods out of the mesh"
)

CNI = Subject("CNI", "the first configuration in the directory of the CNI")


def cni(site: Site) -> Check:
    directory = site.cni_dir
    if not directory.is_dir():
        return CNI.ok(f"none: there is no {directory}, pods come by `ztun enroll`")
    for path in sorted(directory.iterdir()):
        if path.suffix not in SUFFIXES:
            continue
        try:
            plugins = [str(plugin["type"]) for plugin in parsed(path.read_text())["plugins"]]
        except (NoConfiguration, UnicodeDecodeError):
            continue  # as runtimes do: the next one counts
        return judge(path, plugins)
    return CNI.ok(f"none in {directory}: pods come by `ztun enroll`")


def judge(path: Path, plugins: Collection[str]) -> Check:
    """`plugins`: types in the order in which they run."""
    makers = [plugin for plugin in plugins if plugin not in BESIDE]
    past = [plugin for plugin in makers if plugin in PAST_VETHS]
    if past:
        return CNI.failed(f"{past[0]} ({path}): {PAST_VETHS[past[0]]} cannot be captured", CAPTURABLE)
    if "cilium-cni" in makers:
        return CNI.warning(
            f"cilium-cni ({path}): its own programs are on the veths of pods, and with netkit or eBPF host routing "
            "packets go past ours",
            "see in `foreign programs` who is first; set bpf.datapathMode=veth and bpf.hostLegacyRouting=true, and "
            "cni.exclusive=false",
        )
    if "multus" in makers or "multus-shim" in makers:
        return CNI.warning(
            f"multus ({path}): pods with more than one interface are refused",
            "give those that have to be in the mesh one interface",
        )
    unknown = [plugin for plugin in makers if plugin not in BY_VETH]
    if unknown or not makers:
        named = ", ".join(unknown) or "no plugin that makes an interface"
        return CNI.cannot_tell(
            f"{named} ({path}): nobody has tried ztun with it", "enrol one pod, and see `ztun status`"
        )
    return CNI.ok(f"{', '.join(makers)} ({path}): {BY_VETH[makers[0]]}, which are captured")


CHECKS = (Examination(CNI, cni),)
