"""How a connection ended or why it was refused: one closed table.

Each outcome fixes what peers and operators see: the response flag of metrics and logs (docs/WIRE.md#metrics),
the HTTP status of a refused CONNECT (docs/WIRE.md#connect), and a hint for the person who reads the log.
"""

from __future__ import annotations

from enum import Enum, unique
from typing import NamedTuple

from agent.model.address import NamespacedHostname, NetworkAddress


class Facts(NamedTuple):
    flag: str
    """`response_flags` label; `-` means success."""
    status: int
    """HTTP status of the answer to CONNECT, where one is still owed."""
    hint: str


@unique
class Outcome(Enum):
    """Why a connection ended. `outcome.value` is stable: logs, metrics and tests use the name."""

    OK = Facts("-", 200, "")
    DRAINED = Facts("-", 503, "the agent was stopping; the client may retry")
    POLICY_DENIED = Facts(
        "DENY", 401, "an authorization policy forbids it; see `ztun status` for the policies"
    )
    POLICY_CHANGED = Facts("DENY", 401, "a policy change closed a live connection")
    WAYPOINT_BYPASSED = Facts(
        "DENY", 401, "the pod is reached through its waypoint only (--enforce-waypoint)"
    )
    BAD_REQUEST = Facts("CONNECT", 400, "the peer's CONNECT is not a legal HBONE request")
    ADDRESS_MISMATCH = Facts("CONNECT", 400, "the CONNECT names a destination that is not the pod it reached")
    UNKNOWN_SOURCE = Facts("CONNECT", 503, "the control plane does not know this pod (yet)")
    UNKNOWN_DESTINATION_WORKLOAD = Facts(
        "CONNECT", 503, "the control plane does not know the pod it reached (yet)"
    )
    UNKNOWN_MESH_DESTINATION = Facts(
        "CONNECT", 503, "the address lies in the mesh, but no workload or service has it"
    )
    UNDECLARED_SERVICE_PORT = Facts("CONNECT", 503, "the Service declares no such port; add it to spec.ports")
    NO_HEALTHY_UPSTREAM = Facts("CONNECT", 503, "the Service has no healthy endpoint")
    UNKNOWN_WAYPOINT = Facts("CONNECT", 503, "the waypoint of the destination cannot be resolved")
    UNKNOWN_GATEWAY = Facts("CONNECT", 503, "the gateway of the destination's network cannot be resolved")
    NO_ROUTE_BETWEEN_NETWORKS = Facts("CONNECT", 503, "only Services can be reached across networks")
    UNRESOLVED = Facts("CONNECT", 503, "the host name of the destination cannot be resolved")
    UNSUPPORTED = Facts("CONNECT", 503, "this version cannot do that yet; see the README")
    SELF_CALL = Facts("CONNECT", 503, "a connection to the agent's own ports is refused: it would loop")
    CONNECT_FAILED = Facts("CONNECT", 503, "the destination did not accept the connection")
    CONNECT_TIMEOUT = Facts("CONNECT", 503, "the destination did not answer within the connect timeout")
    HBONE_TIMEOUT = Facts("NETWORK_POLICY", 503, "a NetworkPolicy may block port 15008 between the nodes")
    TLS_FAILED = Facts("TLS_FAILURE", 503, "the TLS handshake failed")
    WRONG_IDENTITY = Facts("TLS_FAILURE", 503, "the peer's certificate does not carry an expected identity")
    H2_FAILED = Facts("H2_HANDSHAKE_FAILURE", 503, "the HTTP/2 connection failed")
    UPSTREAM_REFUSED = Facts("CONNECT", 503, "the destination's proxy refused the CONNECT; see its log")
    IDENTITY_UNAVAILABLE = Facts("IDENTITY_ERROR", 503, "no valid certificate for the pod; see `ztun status`")
    CERTIFICATE_REVOKED = Facts("CERT_REVOKED", 503, "a certificate in the chain was revoked")
    OVERLOADED = Facts("CONNECT", 503, "the agent is at its limit of connections or file descriptors")
    LIMITED = Facts("LIMIT", 429, "the pod limits what one client may have; see `ztun limits`")
    POD_REMOVED = Facts("-", 503, "the pod left the mesh")
    RESET = Facts("-", 503, "one end reset the connection")
    CUT_BY_PEER = Facts("CONNECT", 503, "the other node's proxy ended the connection; see its log")
    INTERNAL = Facts("CONNECT", 503, "a defect in ztun: please report it with the log line")

    @property
    def flag(self) -> str:
        return self._value_.flag

    @property
    def status(self) -> int:
        return self._value_.status

    @property
    def hint(self) -> str:
        return self._value_.hint


class Refusal(Exception):
    """A connection that must not go on: the outcome and the particulars, for the log line.

    `status`: the HTTP status by which another proxy has refused it; 0: none has.
    """

    def __init__(self, outcome: Outcome, detail: str = "", status: int = 0) -> None:
        super().__init__(detail or outcome.hint)
        self.outcome = outcome
        self.detail = detail or outcome.hint
        self.status = status


def refused_connect(status: int, whom: str) -> Refusal:
    """What another proxy (`whom`) has answered a CONNECT with; its log has more."""
    why = " (a limit of the destination)" if status == Outcome.LIMITED.status else ""
    return Refusal(Outcome.UPSTREAM_REFUSED, f"http status: {status}{why} from {whom}", status)


class Unknown(Refusal):
    """Refused because the mesh state lacks what `key` names: it may be on its way, or has to be asked for.

    `is_final`: it stays refused if that is nowhere; else it goes on without.
    """

    def __init__(
        self,
        outcome: Outcome,
        detail: str,
        key: NetworkAddress | NamespacedHostname,
        *,
        is_final: bool = True,
    ) -> None:
        super().__init__(outcome, detail)
        self.key = key
        self.is_final = is_final
