"""A Route: what `state.resolve` says about an outbound connection. A value; nobody acts in there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from agent.model.address import SocketAddress
from agent.model.identity import Identity
from agent.model.service import Service
from agent.model.workload import Workload


class Hop(Enum):
    """How the bytes travel; the value is the word used in dumps and logs."""

    PASSTHROUGH = "TCP-PASSTHROUGH"
    TCP = "TCP"
    HBONE = "HBONE"
    DOUBLE_HBONE = "DOUBLEHBONE"


@dataclass(frozen=True, slots=True)
class Route:
    """Where an outbound connection goes.

    `target` is what is dialled (for HBONE with its port 15008); `authority` the CONNECT's destination,
    None unless tunnelled; `accepted` the identities the other end may prove, in order; `destination`
    the workload behind the target (the waypoint or gateway, where one is used), None when unknown; `service`
    the Service that was addressed; `inner_accepted`, for DOUBLE_HBONE, the identities the far end of the
    inner tunnel may prove; `hostname` the name that led to this, where its address is one of the mesh.
    """

    hop: Hop
    target: SocketAddress
    authority: str | None = None
    accepted: tuple[Identity, ...] = ()
    destination: Workload | None = None
    service: Service | None = None
    inner_accepted: tuple[Identity, ...] = ()
    hostname: str = ""
