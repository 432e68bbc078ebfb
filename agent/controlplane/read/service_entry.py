"""Reader of ServiceEntries (networking.istio.io): services that Kubernetes does not know.

What Istio's validation refuses is an error in a manifest; where an API server has let it pass it is a doubt, and the
entry means what it means in istiod.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from ipaddress import ip_network

from agent.controlplane.read.core_kinds import read_aged_meta
from agent.controlplane.read.doubts import Doubts
from agent.controlplane.read.faults import Faults
from agent.controlplane.read.fields import Field
from agent.controlplane.read.mesh_objects import Endpoint, EntryPort, ServiceEntry
from agent.controlplane.read.meta import IPRange
from agent.controlplane.read.workload_entry import is_host, read_endpoint
from agent.model.address import IP, AddressError, parse_ip

RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")
BY_NAME = ("DNS", "DNS_ROUND_ROBIN")
LOCATIONS = ("MESH_EXTERNAL", "MESH_INTERNAL")
AUTOMATIC = "networking.istio.io/enable-autoallocate-ip"
PROTOCOLS = frozenset(
    ("HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TCP", "TLS", "MONGO", "MYSQL", "REDIS", "UDP", "HBONE")
)


def read_service_entry(root: Field, stored: bool) -> ServiceEntry:
    spec, doubts, faults = root.get("spec"), Doubts(stored), Faults()
    take = faults.take
    spec.names()  # a mapping, or not there
    meta = take(read_aged_meta, root, "ServiceEntry")
    hosts = take(read_hosts, spec.get("hosts")) or ()
    addresses = take(read_addresses, spec.get("addresses")) or ()
    resolution = take(spec.get("resolution").one_of, *RESOLUTIONS, default="NONE")
    endpoints = faults.each(read_endpoint, spec.get("endpoints").each())
    selector = take(lambda: spec.get("workloadSelector").get("labels").text_map())
    ports = faults.each(partial(_port, doubts), spec.get("ports").each())
    take(_distinct, spec.get("ports"), ports)
    take(spec.get("location").one_of, *LOCATIONS, default="MESH_EXTERNAL")
    if resolution:
        names = None if None in ports else [port.name for port in ports if port is not None]
        take(_agreeing, spec, doubts, hosts, addresses, resolution, endpoints, names)
    allocated = take(_allocated, root.get("status"))
    alt_names = take(spec.get("subjectAltNames").texts)
    unused = take(lambda: tuple(_unused(spec)))
    faults.end()
    return ServiceEntry(
        meta=meta,
        hosts=hosts,
        addresses=addresses,
        allocated=allocated,
        is_automatic=meta.labels.get(AUTOMATIC, "").lower() != "false",
        ports=ports,
        resolution=resolution,
        selector=selector,
        endpoints=endpoints,
        alt_names=alt_names,
        unused=unused,
        doubts=tuple(doubts.texts),
    )


def read_hosts(field: Field) -> tuple[str, ...]:
    hosts: list[str] = []
    for entry in field.each():
        text = entry.text()
        if not is_host(text.removeprefix("*.")):
            raise entry.error(
                f"{text!r} is not a host name: want one such as api.example.com or *.example.com"
            )
        if text in hosts:
            raise entry.error(f"host {text!r} is given twice")
        hosts.append(text)
    if not hosts:
        raise field.error("it is missing: name the hosts that this is about")
    return tuple(hosts)


def read_addresses(field: Field) -> tuple[IPRange, ...]:
    """Addresses and networks, host bits masked."""
    return tuple(dict.fromkeys(map(_address, field.each())))


def _address(entry: Field) -> IPRange:
    text = entry.text()
    try:
        address, slash, _ = text.partition("/")
        if not slash:
            ip = entry.ip()
            return ip, ip.max_prefixlen
        parse_ip(address)
        network = ip_network(text, strict=False)
    except (AddressError, ValueError) as error:
        raise entry.error(f"{text!r} is not an IP address or network (CIDR)") from error
    return parse_ip(network.network_address.packed), network.prefixlen


def _port(doubts: Doubts, port: Field) -> EntryPort:
    name, protocol = port.get("name"), port.get("protocol")
    if not name.text(""):
        doubts.add(name, "it is missing: each port has a name")
    word = protocol.text("").upper()
    if word and word not in PROTOCOLS:
        doubts.add(protocol, f"{protocol.text()!r} is none of {', '.join(sorted(PROTOCOLS))}")
    return EntryPort(
        number=port.get("number").integer(1, 65535),
        name=name.text(""),
        protocol=word,
        target=port.get("targetPort").integer(0, 65535, default=0),
    )


def _distinct(field: Field, ports: tuple[EntryPort | None, ...]) -> None:
    """None: one that cannot be read."""
    numbers: set[int] = set()
    names: set[str] = set()
    for at, port in zip(field.each(), ports, strict=True):
        if port is None:
            continue
        if port.number in numbers:
            raise at.get("number").error(f"port {port.number} is given twice")
        if port.name and port.name in names:
            raise at.get("name").error(f"the name {port.name!r} is given twice")
        numbers.add(port.number)
        names.add(port.name)


def _agreeing(
    spec: Field,
    doubts: Doubts,
    hosts: tuple[str, ...],
    addresses: tuple[IPRange, ...],
    resolution: str,
    endpoints: tuple[Endpoint | None, ...],
    names: Collection[str] | None,
) -> None:
    """Fields that do not go together. None: an endpoint that cannot be read. `names`: of the entry's ports,
    None where one of them cannot be read."""
    given = spec.get("endpoints")
    if endpoints and spec.get("workloadSelector").present:
        doubts.add(spec.get("workloadSelector"), "it stands beside endpoints: an entry has one of them")
    if resolution == "NONE" and endpoints:
        doubts.add(
            given, "resolution NONE goes to the address that was dialled, and never to them: leave them out"
        )
    if resolution == "STATIC":
        for entry, endpoint in zip(given.each(), endpoints, strict=True):
            if endpoint is not None and endpoint.ip is None:
                doubts.add(
                    entry.get("address"),
                    f"resolution STATIC takes addresses, and {endpoint.address} is a name",
                )
    if resolution in BY_NAME and not endpoints:
        for host in hosts:
            if host.startswith("*"):
                doubts.add(spec.get("hosts"), f"{host} cannot be resolved: name the hosts, or endpoints")
    if resolution == "DNS_ROUND_ROBIN" and len(endpoints) > 1:
        doubts.add(given, "resolution DNS_ROUND_ROBIN takes one endpoint")
    if resolution == "DYNAMIC_DNS" and endpoints:
        doubts.add(given, "resolution DYNAMIC_DNS takes no endpoints")
    for entry, endpoint in zip(given.each(), endpoints, strict=True):
        for name in endpoint.ports if endpoint is not None else ():
            if names is not None and name not in names:
                # What it says would do nothing: the endpoint would be reached at the number of the entry's own port.
                doubts.add(entry.get("ports").get(name), "no port of the entry has this name")
    if resolution not in ("NONE", "STATIC") and any(length != ip.max_prefixlen for ip, length in addresses):
        doubts.add(
            spec.get("addresses"), f"a network goes with resolution NONE or STATIC, not with {resolution}"
        )


def _allocated(status: Field) -> Mapping[str, tuple[IP, ...]]:
    """What a control plane gave, by host."""
    found: dict[str, tuple[IP, ...]] = {}
    for entry in status.get("addresses").each():
        host = entry.get("host").text("")
        found[host] = (*found.get(host, ()), entry.get("value").ip())
    return found


def _unused(spec: Field) -> Iterator[str]:
    """`exportTo` is read by sidecars alone: node proxies of upstream show an entry to everybody too."""
    exported = spec.get("exportTo").texts()
    if exported and exported != ("*",):
        yield f"exportTo {', '.join(exported)} (serviceEntryVisibility of the mesh config does that)"
