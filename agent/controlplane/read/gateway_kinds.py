"""Readers of Gateway and GatewayClass (gateway.networking.k8s.io), as far as waypoints and other networks need them.

Routes, certificates and host names are the gateway's own affair. Nobody deploys a gateway here: a manifest may write
its address where the API has the wish for one (`spec.addresses`), which a controller would have answered in `status`.
"""

from __future__ import annotations

from agent.controlplane.read.core_kinds import read_meta
from agent.controlplane.read.fields import Field
from agent.controlplane.read.label_selectors import read_label_selector
from agent.controlplane.read.mesh_objects import Gateway, GatewayClass, Listener
from agent.model.label_selector import LabelSelector

ADDRESS_TYPE, HOST_TYPE = "IPAddress", "Hostname"
FROM = ("All", "Same", "Selector", "None")


def read_gateway(root: Field, stored: bool) -> Gateway:
    spec = root.get("spec")
    given = root.get("status").get("addresses")
    if not stored and not any(True for _ in given.each()):
        given = spec.get("addresses")
    return Gateway(
        meta=read_meta(root, "Gateway", namespaced=True),
        class_name=spec.get("gatewayClassName").text("" if stored else None),
        listeners=tuple(map(_listener, spec.get("listeners").each())),
        addresses=tuple(_address(entry, stored) for entry in given.each()),
    )


def read_gateway_class(root: Field, stored: bool) -> GatewayClass:
    return GatewayClass(read_meta(root, "GatewayClass", namespaced=False))


def _address(entry: Field, stored: bool) -> tuple[str, str]:
    """Type and value. An API server fills in the type; other types than the two are nothing that can be dialled."""
    kind = entry.get("type").text("" if stored else ADDRESS_TYPE)
    value = entry.get("value")
    if kind == ADDRESS_TYPE:
        return kind, str(value.ip())
    return kind, value.text()


def _listener(listener: Field) -> Listener:
    namespaces = listener.get("allowedRoutes").get("namespaces")
    allows = namespaces.get("from").one_of(*FROM, default="Same")
    selector = namespaces.get("selector")
    if allows == "Selector" and not selector.present:
        raise selector.error("it is missing: say which namespaces, or write from: All")
    return Listener(
        port=listener.get("port").integer(1, 65535),
        protocol=listener.get("protocol").text(),
        allows=allows,
        selector=read_label_selector(selector) if allows == "Selector" else LabelSelector(),
    )
