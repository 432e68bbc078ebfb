"""Readers of core kinds: Namespace, Node, ServiceAccount, Pod and Service.

Two modes. A bare manifest, written by hand, gets what an API server and a kubelet would have filled in; what
nobody can guess (a pod's address and node) is an error. A stored object (`kubectl get -o yaml`: it has a
`resourceVersion`) is taken as it stands: a pod without conditions is not ready, one without addresses not yet there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from agent.controlplane.read.faults import Faults
from agent.controlplane.read.fields import Field
from agent.controlplane.read.meta import Meta
from agent.controlplane.read.objects import (
    ContainerPort,
    Namespace,
    Node,
    Owner,
    Pod,
    Service,
    ServiceAccount,
    ServicePort,
)
from agent.model.address import IP
from agent.model.limits import ANNOTATION, LimitError, Limits, parse_limits

PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
READY = "Ready"
PROTOCOLS = ("TCP", "UDP", "SCTP")
LABELLED = ("Namespace", "Service")
"""Kinds whose names become labels of host names."""
SERVICE_KINDS = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
TRAFFIC_POLICIES = ("Cluster", "Local")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
FAMILY_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")


def read_meta(root: Field, kind: str, namespaced: bool) -> Meta:
    meta = root.get("metadata")
    namespace = meta.get("namespace").label("default") if namespaced else ""
    return Meta(
        place=root.place,
        kind=kind,
        namespace=namespace,
        name=meta.get("name").label() if kind in LABELLED else meta.get("name").name(),
        labels=meta.get("labels").text_map(),
        annotations=meta.get("annotations").text_map(),
        created=_timestamp(meta.get("creationTimestamp")),
    )


def _timestamp(field: Field) -> str:
    return field.text("") if field.present else ""


def read_aged_meta(root: Field, kind: str) -> Meta:
    """As `read_meta`, of a kind of which the oldest counts: `created` so that times can be compared as texts."""
    meta = read_meta(root, kind, namespaced=True)
    if not meta.created:
        return meta
    try:
        created = datetime.fromisoformat(meta.created).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise root.at("metadata.creationTimestamp").error(f"{meta.created!r} is not a time") from error
    return dataclasses.replace(meta, created=created.isoformat())


def read_namespace(root: Field, stored: bool) -> Namespace:
    return Namespace(read_meta(root, "Namespace", namespaced=False))


def read_node(root: Field, stored: bool) -> Node:
    return Node(read_meta(root, "Node", namespaced=False))


def read_service_account(root: Field, stored: bool) -> ServiceAccount:
    return ServiceAccount(read_meta(root, "ServiceAccount", namespaced=True))


def read_pod(root: Field, stored: bool) -> Pod:
    spec, status, meta = root.get("spec"), root.get("status"), root.get("metadata")
    for part in (spec, status, meta):
        part.names()  # each is a mapping, or not there
    faults = Faults()
    take = faults.take
    made = Pod(
        meta=take(read_meta, root, "Pod", namespaced=True),
        service_account=take(_service_account, spec, stored),
        node=take(spec.get("nodeName").text, "" if stored else None),
        ips=take(_pod_ips, status, stored),
        phase=take(status.get("phase").one_of, *PHASES, default="Running"),
        ready=take(_is_ready, status.get("conditions"), stored),
        leaving=meta.get("deletionTimestamp").present,
        host_network=take(spec.get("hostNetwork").boolean),
        generated=bool(take(meta.get("generateName").text, "")),
        owner=take(_owner, meta.get("ownerReferences")),
        ports=take(_container_ports, spec, "" if stored else "TCP"),
        uid=take(meta.get("uid").text, ""),
    )
    limits = meta.get("annotations").get(ANNOTATION)
    if limits.present:
        made = take(_with_limits, made, limits, stored)
    faults.end()
    return made


def _with_limits(pod: Pod, annotation: Field, stored: bool) -> Pod:
    """Security: a pod that an API server has stored is there whatever its annotation says, and is closed by it."""
    try:
        return dataclasses.replace(pod, limits=parse_limits(annotation.text()))
    except LimitError as error:
        if not stored:
            raise annotation.error(str(error)) from error
        return dataclasses.replace(pod, limits=Limits(connections=0), limits_refused=str(error))


def _service_account(spec: Field, stored: bool) -> str:
    """Stored objects keep an empty one; in a manifest it is `default`, as the API server would write.

    The name of old counts where the other says nothing, as there: else the pod would be somebody else.
    """
    said = spec.get("serviceAccountName")
    if not said.present or said.text() == "":
        said = spec.get("serviceAccount")
    return said.text("") if stored else said.name("default")


def _pod_ips(status: Field, stored: bool) -> tuple[IP, ...]:
    several = tuple(entry.get("ip").ip() for entry in status.get("podIPs").each())
    single = status.get("podIP")
    if several:
        if len(set(several)) != len(several):
            raise status.get("podIPs").error("the same address stands here twice")
        if not stored and single.present and single.ip() != several[0]:
            raise single.error(
                f"it is {single.text()}, and the first of podIPs is {several[0]}: write one of them"
            )
        return several
    if single.present:
        return (single.ip(),)
    if stored:
        return ()
    raise status.get("podIPs").error(
        "it is missing: give the pod's addresses, e.g. podIPs: [{ip: 10.77.1.11}]; `ztun pod-manifest` writes them"
    )


def _is_ready(conditions: Field, stored: bool) -> bool:
    if not conditions.present:
        return not stored
    entries = []
    for condition in conditions.each():
        kind, status = condition.get("type"), condition.get("status")
        if not stored:
            status.one_of("True", "False", "Unknown")
            if kind.text() != READY and kind.text().lower() == READY.lower():
                raise kind.error(f"{kind.text()!r} is no condition of pods; did you mean {READY}?")
        entries.append((kind.text(), status.text()))
    return (READY, "True") in entries


def _owner(references: Field) -> Owner | None:
    for reference in references.each():
        if reference.get("controller").boolean():
            return Owner(reference.get("kind").text(), reference.get("name").text())
    return None


def _container_ports(spec: Field, protocol: str) -> tuple[ContainerPort, ...]:
    containers = list(spec.get("containers").each())
    side_cars = [c for c in spec.get("initContainers").each() if c.get("restartPolicy").text("") == "Always"]
    return tuple(
        ContainerPort(
            port.get("name").text(""),
            port.get("protocol").one_of(*PROTOCOLS, default=protocol),
            port.get("containerPort").integer(1, 65535),
        )
        for container in (*containers, *side_cars)
        for port in container.get("ports").each()
    )


def read_service(root: Field, stored: bool) -> Service:
    spec = root.get("spec")
    spec.names()  # a mapping, or not there
    faults = Faults()
    take = faults.take
    kind = take(spec.get("type").one_of, *SERVICE_KINDS, default="ClusterIP")
    ips = take(read_cluster_ips, spec)
    if ips is None and (stored or kind == "ExternalName"):
        ips = ()
    ports = faults.each(partial(_service_port, stored), spec.get("ports").each())
    take(_distinct, spec.get("ports"), ports)
    if not stored:
        take(_named, spec.get("ports"), ports)
    families = take(_families, spec.get("ipFamilies")) or ()
    if not stored:
        take(_agreeing, spec, ips or (), families)
    if ips and not families and not stored:
        families = tuple(f"IPv{ip.version}" for ip in ips)
    made = Service(
        meta=take(read_meta, root, "Service", namespaced=True),
        kind=kind,
        selector=take(spec.get("selector").text_map),
        cluster_ips=ips,
        families=families,
        family_policy=take(spec.get("ipFamilyPolicy").one_of, *FAMILY_POLICIES, default=""),
        ports=ports,
        traffic_distribution=take(_distribution, spec.get("trafficDistribution"), stored),
        is_node_local=take(spec.get("internalTrafficPolicy").one_of, *TRAFFIC_POLICIES, default="Cluster")
        == "Local",
        publishes_not_ready=take(spec.get("publishNotReadyAddresses").boolean),
        unused=() if stored else take(lambda: tuple(_unused(spec, kind))),
    )
    faults.end()
    return made


def _families(field: Field) -> tuple[str, ...]:
    return tuple(family.one_of("IPv4", "IPv6") for family in field.each())


def _unused(spec: Field, kind: str) -> Iterator[str]:
    """Fields of a Service that ask for what kube-proxy and load balancers do, and nobody does here."""
    if kind != "ClusterIP":
        yield f"type {kind}"
    if spec.get("sessionAffinity").text("None") != "None":
        yield "sessionAffinity"
    yield from (name for name in ("externalIPs", "loadBalancerIP") if spec.get(name).present)


def _distribution(field: Field, stored: bool) -> str:
    """Newer API servers may know more words; those that are written by hand are checked."""
    return field.text("") if stored else field.one_of(*DISTRIBUTIONS, default="")


def read_cluster_ips(spec: Field) -> tuple[IP, ...] | None:
    """The addresses given; empty for a headless Service; None where nothing is said."""
    entries = list(spec.get("clusterIPs").each()) or [spec.get("clusterIP")]
    if entries[0].text("") == "":
        return None
    if entries[0].text() == "None":
        return ()
    return tuple(entry.ip() for entry in entries)


def _agreeing(spec: Field, ips: tuple[IP, ...], families: tuple[str, ...]) -> None:
    """Fields that say the same thing, as an API server demands it: else one of them is quietly not what happens."""
    several, single = [each.text("") for each in spec.get("clusterIPs").each()], spec.get("clusterIP")
    if several and single.present and single.text() != several[0]:
        raise single.error(
            f"it is {single.text()!r}, and the first of clusterIPs is {several[0]!r}: write one of them"
        )
    if len(several) > 1 and "None" in several:
        raise spec.get("clusterIPs").error("None stands beside an address: a headless Service has no other")
    for family, ip in zip(families, ips, strict=False):
        if family != f"IPv{ip.version}":
            raise spec.get("ipFamilies").error(
                f"{family} stands in the place of {ip}, which is IPv{ip.version}"
            )


def _service_port(stored: bool, port: Field) -> ServicePort:
    number = port.get("port").integer(1, 65535)
    protocol = port.get("appProtocol")
    return ServicePort(
        name=port.get("name").text(""),
        port=number,
        target=_target(port.get("targetPort"), 0 if stored else number),
        protocol=port.get("protocol").one_of(*PROTOCOLS, default="TCP"),
        app_protocol=protocol.text() if protocol.present else None,
    )


def _target(target: Field, default: int) -> int | str:
    """A number, or the name of a container's port: an API server tells them apart by the quotes, and so do we."""
    if not target.present:
        return default
    if target.is_integer:
        return target.integer(1, 65535)
    name = target.text()
    if not re.fullmatch("[0-9a-z-]{1,15}", name) or not re.search("[a-z]", name):
        raise target.error(
            f"{name!r} is not the name of a port; write a number without quotes"
            if name.isdigit()
            else f"{name!r} is not the name of a port: lower case letters, digits and '-', at most 15"
        )
    return name


def _distinct(field: Field, ports: tuple[ServicePort | None, ...]) -> None:
    """Two ports of one number, or of one name, would take each other's place. None: one that cannot be read."""
    numbers: set[tuple[int, str]] = set()
    names: set[str] = set()
    for at, port in zip(field.each(), ports, strict=True):
        if port is None:
            continue
        if (port.port, port.protocol) in numbers:
            raise at.get("port").error(f"{port.protocol} port {port.port} is given twice")
        if port.name and port.name in names:
            raise at.get("name").error(f"the name {port.name!r} is given twice")
        numbers.add((port.port, port.protocol))
        names.add(port.name)


def _named(field: Field, ports: tuple[ServicePort | None, ...]) -> None:
    """An API server refuses several ports of which one has no name."""
    for at, port in zip(field.each(), ports, strict=True):
        if len(ports) > 1 and port is not None and not port.name:
            raise at.get("name").error(
                f"port {port.port} has none: each of several ports must be named, e.g. name: tcp-{port.port}"
            )
