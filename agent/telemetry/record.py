"""What is known about one connection when it opens and when it ends, and the metric labels that follow.

Pure values: `proxy` builds them, `metrics` and `access_log` read them. The label set, its order and its
precedence are ztunnel's (docs/WIRE.md#metrics), because dashboards are written against them. Nothing a peer
merely claims gets into a principal: identities here are proven by mTLS, or None.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, NamedTuple

from agent.model.address import NamespacedHostname, SocketAddress
from agent.model.connection import Direction
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.model.service import Service
from agent.model.workload import Workload

UNKNOWN = "unknown"
NO_FLAG = Outcome.OK.flag


class Reporter(Enum):
    """Which end of the connection reports; the value is the metric label."""

    SOURCE = "source"
    DESTINATION = "destination"


class Attributes(NamedTuple):
    """One end of a connection as metrics describe it; an empty string means unknown."""

    workload: str = ""
    canonical_service: str = ""
    canonical_revision: str = ""
    namespace: str = ""
    app: str = ""
    version: str = ""
    cluster: str = ""
    region: str = ""
    zone: str = ""

    @classmethod
    def of_workload(cls, workload: Workload) -> Attributes:
        return cls(
            workload=workload.workload_name,
            canonical_service=workload.canonical_name,
            canonical_revision=workload.canonical_revision,
            namespace=workload.namespace,
            app=workload.canonical_name,
            version=workload.canonical_revision,
            cluster=workload.cluster_id,
            region=workload.locality.region,
            zone=workload.locality.zone,
        )


class Opened(NamedTuple):
    """A connection whose request is fully built (the moment ztunnel counts as "opened").

    `source_identity` and `destination_identity` are proven ones only. `source_claims` come from a peer's
    `baggage` and fill in where the mesh state knows nothing; `destination_claims` come from the answer
    through a network gateway, which knows better than the state here, and win (docs/WIRE.md#double-hbone).
    `destination_address` is what is dialled (outbound), the pod's own HBONE address (inbound) or the
    original destination (inbound plaintext). `authority` is that of the CONNECT, None for plain TCP.
    """

    direction: Direction
    source_address: SocketAddress
    destination_address: SocketAddress
    source: Workload | None = None
    destination: Workload | None = None
    source_identity: Identity | None = None
    destination_identity: Identity | None = None
    is_mutual_tls: bool = False
    authority: str | None = None
    service: Service | NamespacedHostname | None = None
    source_claims: Attributes | None = None
    destination_claims: Attributes | None = None

    def proven(self, destination_identity: Identity | None) -> Opened:
        """The same, once the destination has proven who it is."""
        values: list[Any] = [*self]  # `_replace` costs twice as much, for every connection
        values[_PROVEN_AT] = destination_identity
        return Opened(*values)

    @property
    def reporter(self) -> Reporter:
        return Reporter.SOURCE if self.direction is Direction.OUTBOUND else Reporter.DESTINATION


_PROVEN_AT = Opened._fields.index("destination_identity")


class Record(NamedTuple):
    """A connection that ended. Bytes are counted by where they flow, whoever reports.

    `phases` names the parts of the setup with their seconds, e.g. `(("tls", 0.004), ("connect", 0.001))`.
    """

    opened: Opened
    outcome: Outcome
    detail: str = ""
    to_server_bytes: int = 0
    to_client_bytes: int = 0
    duration_s: float = 0.0
    phases: tuple[tuple[str, float], ...] = ()

    @property
    def is_failed(self) -> bool:
        return self.outcome.flag != NO_FLAG

    @property
    def reported_bytes(self) -> tuple[int, int]:
        """(sent, received) from the reporter's viewpoint, as the access log has it (docs/WIRE.md#logs)."""
        if self.opened.direction is Direction.OUTBOUND:
            return self.to_server_bytes, self.to_client_bytes
        return self.to_client_bytes, self.to_server_bytes


_END_NAMES = (
    "workload",
    "canonical_service",
    "canonical_revision",
    "workload_namespace",
    "principal",
    "app",
    "version",
    "cluster",
)
LABEL_NAMES = (
    "reporter",
    *(f"source_{name}" for name in _END_NAMES),
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    *(f"destination_{name}" for name in _END_NAMES),
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
LOCALITY_NAMES = ("source_region", "source_zone", "destination_region", "destination_zone")
FLAG_INDEX = LABEL_NAMES.index("response_flags")

LabelSet = tuple[str, ...]
"""Values of LABEL_NAMES, followed by those of LOCALITY_NAMES when a region or zone is known."""

NOBODY = Attributes()


def labels(opened: Opened, flag: str = NO_FLAG) -> LabelSet:
    """The TCP label set of a connection, empty values as `unknown` (docs/WIRE.md#metrics)."""
    source = _known(opened.source) or opened.source_claims or NOBODY
    destination = opened.destination_claims or _known(opened.destination) or NOBODY
    source_principal = opened.source_identity if opened.is_mutual_tls else None
    # Without proof the destination's principal is the expected one, also for plaintext; a source has proof or none.
    destination_principal = opened.destination_identity
    if destination_principal is None and opened.destination is not None:
        destination_principal = opened.destination.identity
    values = (
        opened.reporter.value,
        *_end(source, source_principal),
        *_service(opened.service),
        *_end(destination, destination_principal),
        "tcp",
        flag,
        "mutual_tls" if opened.is_mutual_tls else UNKNOWN,
    )
    localities = (source.region, source.zone, destination.region, destination.zone)
    if any(localities):
        values += localities
    return tuple([value or UNKNOWN for value in values])


class Labelled:
    """The label set of a pair of ends, and how many open connections have it."""

    __slots__ = ("label_set", "made_for", "open")

    def __init__(self, made_for: Opened) -> None:
        self.made_for = made_for
        self.label_set = labels(made_for)
        self.open = 0


class LabelMemo:
    """Label sets already made, for ends and services that are still the very same objects.

    Most connections of a node run between few pairs of workloads. An entry holds the connection it was made
    for, so that the objects by whose identity it is found stay alive and cannot be mistaken for others.
    What nobody has open is forgotten once there are more than `LIMIT`, and as many again as are open.
    """

    LIMIT: ClassVar[int] = 4096

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], Labelled] = {}
        self._open = 0
        """How many, known here or not, somebody has open."""

    def __len__(self) -> int:
        return len(self._made)

    def open(self, opened: Opened) -> Labelled:
        """With what `labels(opened)` answers; to be closed when the connection ends."""
        labelled = self._labelled(opened)
        labelled.open += 1
        if labelled.open == 1:
            self._open += 1
        return labelled

    def close(self, labelled: Labelled) -> None:
        labelled.open -= 1
        if not labelled.open:
            self._open -= 1
            self._forget()

    def _labelled(self, opened: Opened) -> Labelled:
        if opened.source_claims is not None or opened.destination_claims is not None:
            return Labelled(opened)
        key = (
            id(opened.direction),
            id(opened.source),
            id(opened.destination),
            id(opened.service),
            opened.is_mutual_tls,
        )
        known = self._made.get(key)
        if known is not None:
            made_for = known.made_for
            if (made_for.source_identity, made_for.destination_identity) == (
                opened.source_identity,
                opened.destination_identity,
            ):
                return known
        self._forget()
        labelled = self._made[key] = Labelled(opened)
        return labelled

    def _forget(self) -> None:
        """Each time it is done, as many have come or gone since as are looked at, or half of them."""
        if len(self._made) > max(self.LIMIT, 2 * self._open):
            self._made = {key: each for key, each in self._made.items() if each.open}


def source_labels(source: Workload) -> tuple[str, ...]:
    """The labels of a pod that dials, without those of where."""
    return tuple([value or UNKNOWN for value in _end(Attributes.of_workload(source), source.identity)])


def with_flag(label_set: LabelSet, flag: str) -> LabelSet:
    """The same labels with another `response_flags`."""
    if label_set[FLAG_INDEX] == flag:
        return label_set
    return (*label_set[:FLAG_INDEX], flag, *label_set[FLAG_INDEX + 1 :])


def label_names(label_set: LabelSet) -> tuple[str, ...]:
    """The names that go with the values of a label set."""
    return LABEL_NAMES if len(label_set) == len(LABEL_NAMES) else LABEL_NAMES + LOCALITY_NAMES


def _known(workload: Workload | None) -> Attributes | None:
    return Attributes.of_workload(workload) if workload is not None else None


def _end(end: Attributes, principal: Identity | None) -> tuple[str, ...]:
    return (
        end.workload,
        end.canonical_service,
        end.canonical_revision,
        end.namespace,
        str(principal) if principal else "",
        end.app,
        end.version,
        end.cluster,
    )


def _service(service: Service | NamespacedHostname | None) -> tuple[str, str, str]:
    """(hostname, namespace, name); a hostname that is not of Kubernetes is its own name."""
    if service is None:
        return "", "", ""
    if isinstance(service, Service):
        return service.hostname, service.namespace, service.name
    return service.hostname, service.namespace, service.hostname.partition(".")[0]
