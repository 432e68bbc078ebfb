"""Reads what traffic control has on interfaces: `tc qdisc show`, `tc filter show`. In the calling thread's namespace.

Only lists are asked for: older kernels tell all the world (RTNLGRP_TC) when a single qdisc is asked for, and who
listens for news of filters would hear of its own question. Layouts: include/uapi/linux/rtnetlink.h, pkt_cls.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from redirect import netlink

RTM_GETQDISC, RTM_GETTFILTER = 38, 46
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_NAME, TCA_BPF_ID = 7, 11
INGRESS_PLACE = 0xFFFFFFF1
"""Parent of the one qdisc, `clsact` or `ingress`, that has what comes in and (clsact) what is sent."""
CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3

_MESSAGE = struct.Struct("=BxHiIII")
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class FilterRow:
    """One filter. `program_id` and `name`: those of a bpf filter, else 0 and empty."""

    kind: str
    priority: int
    protocol_be: int
    handle: int
    name: str
    program_id: int


def ingress_qdiscs() -> dict[int, str]:
    """ifindex -> kind of qdisc in the place where clsact goes, for the interfaces that have one. Raises OSError."""
    found = {}
    for body in netlink.ask(RTM_GETQDISC, _MESSAGE.pack(0, 0, 0, 0, 0, 0), netlink.NLM_F_DUMP):
        _, _, ifindex, _, parent, _ = _MESSAGE.unpack_from(body)
        if parent == INGRESS_PLACE:
            found[ifindex] = netlink.text(netlink.attributes(body[_MESSAGE.size :])[TCA_KIND])
    return found


def filters(ifindex: int, parent: int) -> list[FilterRow]:
    """Those of one side of a clsact, in the order in which they run. An interface that is gone has none."""
    bodies = netlink.ask(RTM_GETTFILTER, _MESSAGE.pack(0, 0, ifindex, 0, parent, 0), netlink.NLM_F_DUMP)
    return [row for row in map(_row, bodies) if row is not None]


def _row(body: bytes) -> FilterRow | None:
    """None: the head of a list of filters, which is none itself."""
    *_, handle, _, info = _MESSAGE.unpack_from(body)
    found = netlink.attributes(body[_MESSAGE.size :])
    if TCA_OPTIONS not in found:
        return None
    kind = netlink.text(found[TCA_KIND])
    # The numbers of options are those of the filter's kind.
    options = netlink.attributes(found[TCA_OPTIONS]) if kind == "bpf" else {}
    return FilterRow(
        kind,
        info >> 16,
        info & 0xFFFF,
        handle,
        netlink.text(options.get(TCA_BPF_NAME, b"")),
        _U32.unpack(options[TCA_BPF_ID])[0] if TCA_BPF_ID in options else 0,
    )
