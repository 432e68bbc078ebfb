"""Reader of EndpointSlices (discovery.k8s.io/v1 and v1beta1): where a Service without a selector leads.

Those of host names (`addressType: FQDN`) and of other protocols than TCP have no endpoints for a node proxy.
"""

from __future__ import annotations

from functools import partial

from agent.controlplane.read.core_kinds import PROTOCOLS, read_meta
from agent.controlplane.read.faults import Faults
from agent.controlplane.read.fields import Field
from agent.controlplane.read.mesh_objects import EndpointSlice, SliceEndpoint, SlicePort

SERVICE_NAME = "kubernetes.io/service-name"
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")


def read_endpoint_slice(root: Field, stored: bool) -> EndpointSlice:
    faults = Faults()
    take = faults.take
    meta = take(read_meta, root, "EndpointSlice", namespaced=True)
    service = take(_service, root, stored) or ""
    kind = take(root.get("addressType").one_of, *ADDRESS_TYPES)
    is_served = kind != "FQDN" and bool(service)
    endpoints = faults.each(partial(_endpoint, kind), root.get("endpoints").each()) if is_served else ()
    ports = faults.each(partial(_port, stored), root.get("ports").each())
    faults.end()
    return EndpointSlice(
        meta=meta,
        service=service,
        endpoints=endpoints,
        ports=tuple(port for port in ports if port is not None),
    )


def _service(root: Field, stored: bool) -> str:
    labels = root.at("metadata.labels")
    service = labels.get(SERVICE_NAME).text("")
    if not stored and not service:
        raise labels.error(f"it has no label {SERVICE_NAME}: name the Service it is of")
    return service


def _port(stored: bool, port: Field) -> SlicePort | None:
    """None: not TCP, or without a number: then all ports are meant, which no Service can be mapped to."""
    if not stored and not port.present:
        raise port.error("an entry without content")
    if port.get("port").present and port.get("protocol").one_of(*PROTOCOLS, default="TCP") == "TCP":
        return SlicePort(port.get("name").text(""), port.get("port").integer(1, 65535))
    return None


def _endpoint(kind: str, entry: Field) -> SliceEndpoint:
    addresses = list(entry.get("addresses").each())
    if not addresses:
        raise entry.get("addresses").error("it is missing: an endpoint has at least one address")
    ips = tuple(address.ip() for address in addresses)
    for address, ip in zip(addresses, ips, strict=True):
        if kind and kind != f"IPv{ip.version}":
            raise address.error(f"{ip} is IPv{ip.version}, and the addressType is {kind}")
    target = entry.get("targetRef")
    is_pod = target.get("kind").text("") == "Pod"
    return SliceEndpoint(
        ips=ips,
        ready=entry.get("conditions").get("ready").boolean(default=True),
        pod=(target.get("name").text(""), target.get("uid").text("")) if is_pod else None,
    )
