"""Reader of EndpointSlices (discovery.k8s.io/v1 and v1beta1): where a Service without a selector leads.

Those of host names (`addressType: FQDN`) and of other protocols than TCP have no endpoints for a node proxy.
"""

from __future__ import annotations

from agent.controlplane.read.core_kinds import PROTOCOLS, read_meta
from agent.controlplane.read.fields import Field
from agent.controlplane.read.mesh_objects import EndpointSlice, SliceEndpoint, SlicePort

SERVICE_NAME = "kubernetes.io/service-name"
ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")


def read_endpoint_slice(root: Field, stored: bool) -> EndpointSlice:
    meta = read_meta(root, "EndpointSlice", namespaced=True)
    kind = root.get("addressType").one_of(*ADDRESS_TYPES)
    is_served = kind != "FQDN" and bool(meta.labels.get(SERVICE_NAME))
    if not stored and SERVICE_NAME not in meta.labels:
        raise root.at("metadata.labels").error(f"it has no label {SERVICE_NAME}: name the Service it is of")
    endpoints = tuple(_endpoint(entry, kind) for entry in root.get("endpoints").each()) if is_served else ()
    ports = tuple(
        SlicePort(port.get("name").text(""), port.get("port").integer(1, 65535))
        for port in root.get("ports").each()
        # Without a number all ports are meant, which no Service can be mapped to.
        if port.get("port").present and port.get("protocol").one_of(*PROTOCOLS, default="TCP") == "TCP"
    )
    return EndpointSlice(
        meta=meta, service=meta.labels.get(SERVICE_NAME, ""), endpoints=endpoints, ports=ports
    )


def _endpoint(entry: Field, kind: str) -> SliceEndpoint:
    addresses = list(entry.get("addresses").each())
    if not addresses:
        raise entry.get("addresses").error("it is missing: an endpoint has at least one address")
    ips = tuple(address.ip() for address in addresses)
    for address, ip in zip(addresses, ips, strict=True):
        if kind != f"IPv{ip.version}":
            raise address.error(f"{ip} is IPv{ip.version}, and the addressType is {kind}")
    target = entry.get("targetRef")
    is_pod = target.get("kind").text("") == "Pod"
    return SliceEndpoint(
        ips=ips,
        ready=entry.get("conditions").get("ready").boolean(default=True),
        pod=(target.get("name").text(""), target.get("uid").text("")) if is_pod else None,
    )
