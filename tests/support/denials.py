"""What a program makes of cells, in other words: the longest range of the port, else of all others, decides."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.address import IP
from agent.policy.prefilter import OTHER_PORTS, TUNNEL_PORT, Cell


def reason_of(cells: Iterable[Cell], source: IP, port: int) -> str:
    """Why a SYN is denied; empty: it is not."""
    found = [cell for cell in cells if cell.port == port and source in cell.sources]
    if not found and port != TUNNEL_PORT:
        found = [cell for cell in cells if cell.port == OTHER_PORTS and source in cell.sources]
    return max(found, key=lambda cell: cell.sources.prefixlen).reason if found else ""
