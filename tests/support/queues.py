"""A queueing discipline on a device, as the bandwidth plugin of the CNI puts one on the host end of a pod's veth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pyroute2 import IPRoute, NetlinkError

ROOT, HANDLE, INGRESS = 0xFFFFFFFF, 0x10000, 0xFFFF0000
ETH_P_ALL = 3
IFB = "ifb-limit"


@contextmanager
def limited(ifindex: int, rate: str = "1mbit", burst_bytes: int = 100_000) -> Iterator[Callable[[], int]]:
    """A limit of bandwidth for what is sent by a device; answers how many bytes have gone through it by now."""
    with IPRoute() as ip:
        # tc qdisc add dev DEV root handle 1: tbf rate RATE burst BURST latency 100ms
        ip.tc(
            "add",
            "tbf",
            index=ifindex,
            handle=HANDLE,
            parent=ROOT,
            rate=rate,
            burst=burst_bytes,
            latency="100ms",
        )

        def sent_bytes() -> int:
            (limit,) = (row for row in ip.get_qdiscs(ifindex) if row.get("kind") == "tbf")
            return int(limit.get_nested("TCA_STATS2", "TCA_STATS_BASIC")["bytes"])

        try:
            yield sent_bytes
        finally:
            ip.tc("del", index=ifindex, handle=HANDLE, parent=ROOT)


@contextmanager
def limited_ingress(ifindex: int, rate: str) -> Iterator[Callable[[], int]]:
    """The same for what comes in by a device: led through an ifb, which has the limit."""
    with IPRoute() as ip:
        ip.link("add", ifname=IFB, kind="ifb")  # ip link add ifb-limit type ifb
        try:
            (ifb,) = ip.link_lookup(ifname=IFB)
            ip.link("set", index=ifb, state="up")
            # The clsact of a guard may have that place: tc qdisc del dev DEV clsact. What is there the agent lets be.
            with suppress(NetlinkError):
                ip.tc("del", "clsact", index=ifindex)
            ip.tc("add", "ingress", index=ifindex, handle=INGRESS)  # tc qdisc add dev DEV ingress
            try:
                # tc filter add dev DEV ingress u32 match u32 0 0 action mirred egress redirect dev ifb-limit
                redirect = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": ifb}
                ip.tc(
                    "add-filter",
                    "u32",
                    index=ifindex,
                    parent=INGRESS,
                    protocol=ETH_P_ALL,
                    prio=1,
                    keys=["0x0/0x0+0"],
                    target=0,
                    action=redirect,
                )
                with limited(ifb, rate) as sent_bytes:
                    yield sent_bytes
            finally:
                ip.tc("del", "ingress", index=ifindex, handle=INGRESS)
        finally:
            ip.link("del", ifname=IFB)
