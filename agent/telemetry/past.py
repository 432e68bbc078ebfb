"""What was counted of a connection by the process that had it before: the other one goes on with the count.

The ends are told by what a record says of them, not by their names in the mesh state: whoever has left that by the time
the connection ends is in its line all the same, and under the labels that it was opened by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.model.address import NamespacedHostname
from agent.model.service import Service
from agent.model.unit import PlainValue, State, StateReader
from agent.model.unit_values import direction, identity_or_none, socket_address, told
from agent.model.workload import Locality, Workload
from agent.telemetry.record import LABEL_NAMES, LOCALITY_NAMES, Attributes, LabelSet, Opened, Reporter

_LABEL_COUNTS = (len(LABEL_NAMES), len(LABEL_NAMES) + len(LOCALITY_NAMES))


class Past(NamedTuple):
    """A connection that goes on. Bytes are those counted so far, `age_s` is since it was opened."""

    opened: Opened
    labels: LabelSet
    """It was counted as opened under these."""
    to_server_bytes: int
    to_client_bytes: int
    age_s: float

    def state(self) -> State:
        opened = self.opened
        return {
            "direction": opened.direction.value,
            "source_address": str(opened.source_address),
            "destination_address": str(opened.destination_address),
            "source": _end(opened.source),
            "destination": _end(opened.destination),
            "source_identity": told(opened.source_identity),
            "destination_identity": told(opened.destination_identity),
            "is_mutual_tls": opened.is_mutual_tls,
            "authority": opened.authority,
            "service": _service(opened.service),
            "source_claims": opened.source_claims,
            "destination_claims": opened.destination_claims,
            "labels": self.labels,
            "to_server_bytes": self.to_server_bytes,
            "to_client_bytes": self.to_client_bytes,
            "age_s": self.age_s,
        }

    @classmethod
    def from_state(cls, fields: StateReader) -> Past:
        """Raises BadUnit."""
        opened = Opened(
            direction=direction(fields, "direction"),
            source_address=socket_address(fields, "source_address"),
            destination_address=socket_address(fields, "destination_address"),
            source=_workload(fields, "source"),
            destination=_workload(fields, "destination"),
            source_identity=identity_or_none(fields, "source_identity"),
            destination_identity=identity_or_none(fields, "destination_identity"),
            is_mutual_tls=fields.flag("is_mutual_tls"),
            authority=fields.text("authority") if fields.has("authority") else None,
            service=_service_of(fields),
            source_claims=_claims(fields, "source_claims"),
            destination_claims=_claims(fields, "destination_claims"),
        )
        labels = tuple(fields.texts("labels", max(_LABEL_COUNTS)))
        if len(labels) not in _LABEL_COUNTS or labels[0] not in {reporter.value for reporter in Reporter}:
            raise fields.refuse("labels", f"{len(labels)} of them are no label set")
        past = cls(
            opened,
            labels,
            fields.integer("to_server_bytes"),
            fields.integer("to_client_bytes"),
            fields.number("age_s"),
        )
        fields.done()
        return past


_OF_WORKLOAD = (
    "name",
    "namespace",
    "trust_domain",
    "service_account",
    "workload_name",
    "canonical_name",
    "canonical_revision",
    "cluster_id",
)


def _end(workload: Workload | None) -> State | None:
    if workload is None:
        return None
    end: State = {name: getattr(workload, name) for name in _OF_WORKLOAD}
    return end | {"region": workload.locality.region, "zone": workload.locality.zone}


def _workload(fields: StateReader, name: str) -> Workload | None:
    """One with what a record says of it, and nothing else: nobody but the record has it."""
    if not fields.has(name):
        return None
    end = fields.within(name)
    texts = {each: end.text(each) for each in _OF_WORKLOAD}
    made = Workload("", **texts, locality=Locality(end.text("region"), end.text("zone")))  # type: ignore[arg-type]
    end.done()
    return made


def _service(service: Service | NamespacedHostname | None) -> PlainValue:
    if service is None:
        return None
    return [service.namespace, service.hostname, *([service.name] if isinstance(service, Service) else [])]


def _service_of(fields: StateReader) -> Service | NamespacedHostname | None:
    if not fields.has("service"):
        return None
    match fields.texts("service", 3):
        case [namespace, hostname]:
            return NamespacedHostname(namespace, hostname)
        case [namespace, hostname, name]:
            return Service(name, namespace, hostname)
        case parts:
            raise fields.refuse("service", f"{len(parts)} parts")


def _claims(fields: StateReader, name: str) -> Attributes | None:
    if not fields.has(name):
        return None
    texts: Sequence[str] = fields.texts(name, len(Attributes._fields))
    if len(texts) != len(Attributes._fields):
        raise fields.refuse(name, f"{len(texts)} attributes")
    return Attributes(*texts)
