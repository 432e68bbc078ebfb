"""Reader of WorkloadEntries (networking.istio.io): a machine outside of Kubernetes, also as an endpoint of an entry.

As strict as Istio's validation with what is written by hand; a stored one is taken as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.controlplane.read.core_kinds import read_meta
from agent.controlplane.read.faults import Faults
from agent.controlplane.read.fields import Field
from agent.controlplane.read.mesh_objects import Endpoint, WorkloadEntry
from agent.model.address import IP, AddressError, parse_ip

WEIGHT_LIMIT = 2**32 - 1
HOST = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
PORT_NAME = re.compile("[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def read_workload_entry(root: Field, stored: bool) -> WorkloadEntry:
    spec, faults = root.get("spec"), Faults()
    if not spec.present:
        raise spec.error("it is missing")
    spec.names()  # a mapping
    meta = faults.take(read_meta, root, "WorkloadEntry", namespaced=True)
    endpoint = faults.take(read_endpoint, spec)
    faults.end()
    return WorkloadEntry(meta=meta, endpoint=endpoint, labels={**endpoint.labels, **meta.labels})


def read_endpoint(entry: Field) -> Endpoint:
    """The spec of a WorkloadEntry, or an endpoint of a ServiceEntry: they are of one form."""
    entry.names()  # a mapping
    faults = Faults()
    take = faults.take
    address, ip = take(_address, entry.get("address")) or ("", None)
    made = Endpoint(
        address=address,
        ip=ip,
        ports=take(_ports, entry.get("ports")),
        labels=take(entry.get("labels").text_map),
        network=take(entry.get("network").text, ""),
        locality=take(_locality, entry.get("locality")),
        weight=take(entry.get("weight").integer, 0, WEIGHT_LIMIT, default=0),
        service_account=take(_account, entry.get("serviceAccount")),
    )
    faults.end()
    return made


def _address(field: Field) -> tuple[str, IP | None]:
    """As it is written, and what it is unless it is a host name."""
    text = field.text("")
    if not text:
        raise field.error("it is missing: write an IP address or a host name")
    if text.startswith("unix:"):
        raise field.error("node proxies dial no unix sockets: write an IP address or a host name")
    return text, None if is_host(text) else field.ip()


def is_host(text: str) -> bool:
    """Whether it is a host name and no address; one of figures alone is a broken address."""
    try:
        parse_ip(text)
    except AddressError:
        last = text.rstrip(".").rpartition(".")[2]
        return HOST.fullmatch(text) is not None and len(text) <= 253 and not last.isdigit()
    return False


def _ports(field: Field) -> Mapping[str, int]:
    ports = {}
    for name in field.names():
        if not PORT_NAME.fullmatch(name):
            raise field.get(name).error(f"{name!r} is not the name of a port")
        ports[name] = field.get(name).integer(1, 65535)
    return ports


def _locality(field: Field) -> str:
    text = field.text("")
    if text and (text.count("/") > 2 or not all(text.split("/"))):
        raise field.error(f"{text!r} is not a locality: want REGION, REGION/ZONE or REGION/ZONE/SUBZONE")
    return text


def _account(field: Field) -> str:
    return field.name() if field.present and field.text() else ""
