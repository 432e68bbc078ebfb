"""How many programs of captures, and guards behind them, there are in a namespace of a node, asked of the kernel."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from redirect import features, rtnetlink, sys_bpf, tc_rows
from redirect.attach import TCX_TYPES
from redirect.netns import entered


def guards_in(namespace: Path) -> int:
    """Two for each interface that has them."""
    with entered(namespace):
        places = product(tc_rows.ingress_qdiscs(), (tc_rows.CLSACT_INGRESS, tc_rows.CLSACT_EGRESS))
        return sum(":guard_" in row.name for place in places for row in tc_rows.filters(*place))


def links_in(namespace: Path) -> int:
    """Programs at tcx, whoever's; none where the kernel has no tcx."""
    if not features.has_tcx():
        return 0
    with entered(namespace):
        places = product(rtnetlink.links(), sorted(set(TCX_TYPES.values())))
        return sum(len(sys_bpf.prog_query(*place)) for place in places)
