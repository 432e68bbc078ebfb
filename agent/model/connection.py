"""The facts about one connection that policy may look at, and its direction.

Policy sees TLS identity, TCP addresses and the port, and nothing a peer can merely claim
(`forwarded`, `baggage`): those are attributes for telemetry only.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from agent.model.address import SocketAddress
from agent.model.identity import Identity


class Direction(Enum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Connection(NamedTuple):
    """What `policy.evaluate` decides on, at the destination.

    `source` is the TCP peer; `destination` the application's address after port mapping; `identity` is
    the peer's, proven by mTLS, or None for plaintext.
    """

    source: SocketAddress
    destination: SocketAddress
    identity: Identity | None
    network: str = ""
