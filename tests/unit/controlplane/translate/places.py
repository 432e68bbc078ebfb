"""Objects of a mesh that may be there or not, in several forms: each place holds one of its texts, or none."""

from __future__ import annotations

from tests.support.controlplane import deny, pod

DISTRIBUTED = {"networking.istio.io/traffic-distribution": "PreferClose"}


def service(
    name: str, ns: str, selector: str, ip: str, kind: str = "ClusterIP", labels: str = "", port: str = ""
) -> str:
    external = ", externalName: example.com" if kind == "ExternalName" else f', clusterIP: "{ip}"'
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {ns}, labels: {{{labels}}}}}
spec: {{type: {kind}{external}, selector: {{{selector}}}, ports: [{{{port}port: 80, targetPort: 8080}}]}}
"""


def peer(name: str, ns: str, mode: str, selector: str = "", ports: str = "") -> str:
    chosen = f"selector: {{matchLabels: {{{selector}}}}}, " if selector else ""
    of_ports = f", portLevelMtls: {{{ports}}}" if ports else ""
    return f"""---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {ns}}}
spec: {{{chosen}mtls: {{mode: {mode}}}{of_ports}}}
"""


def connection_limit(name: str, ns: str, spec: str) -> str:
    return f"""---
apiVersion: ztun.io/v1alpha1
kind: ConnectionLimit
metadata: {{name: {name}, namespace: {ns}}}
spec: {{{spec}}}
"""


def namespace(name: str, **annotations: str) -> str:
    said = ", ".join(f"{n}: {v}" for n, v in annotations.items())
    meta = f"{{name: {name}, labels: {{{said}}}, annotations: {{{said}}}}}"
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata: {meta}\n"


def node(name: str, zone: str) -> str:
    label = f'"topology.kubernetes.io/zone": {zone}'
    return f"---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{label}}}}}\n"


def endpoint_slice(of: str, *endpoints: str, ns: str = "demo") -> str:
    return f"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {of}-1, namespace: {ns}, labels: {{kubernetes.io/service-name: {of}}}}}
addressType: IPv4
endpoints: [{", ".join(endpoints)}]
ports: [{{port: 8080}}]
"""


def workload_entry(name: str, ns: str, address: str, spec: str = "", labels: str = "") -> str:
    return f"""---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: {ns}, labels: {{{labels}}}}}
spec: {{address: {address}{spec}}}
"""


def service_entry(name: str, ns: str, hosts: str, spec: str, meta: str = "") -> str:
    return f"""---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {ns}{meta}}}
spec: {{hosts: [{hosts}], ports: [{{number: 80, name: http}}], {spec}}}
"""


def gateway(
    name: str,
    ns: str,
    *,
    of: str = "istio-waypoint",
    ip: str = "",
    meta: str = "",
    allows: str = "",
    listens: str = "port: 15008, protocol: HBONE",
) -> str:
    addresses = f"\nstatus: {{addresses: [{{type: IPAddress, value: {ip}}}]}}" if ip else ""
    routes = f", allowedRoutes: {{namespaces: {{{allows}}}}}" if allows else ""
    listener = f"{{name: mesh, {listens}{routes}}}"
    return f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {ns}{meta}}}
spec: {{gatewayClassName: {of}, listeners: [{listener}]}}{addresses}
"""


def gateway_class(name: str, meta: str) -> str:
    return f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {name}, {meta}}}
spec: {{controllerName: example.com/none}}
"""


def mesh_config(text: str) -> str:
    return f"""---
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data: {{mesh: "{text}"}}
"""


USES = {"istio.io/use-waypoint": "wp"}
FOR_ALL = ", labels: {istio.io/waypoint-for: all}"
HIDES = "serviceEntryVisibility: {policies: [{visibility: NONE, matchingRules: [{namespaceSelector: "
HIDES += "{matchLabels: {mesh: 'yes'}}}]}], defaultVisibility: NAMESPACE}"
WEB_HOST = "s.demo.svc.cluster.local"
CANARY = "istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: far, istio.io/use-waypoint-canary-namespace: shop"
PLACES: dict[str, list[str]] = {
    "limit": [
        connection_limit("l", "demo", "connections: 3"),
        connection_limit("l", "demo", "selector: {matchLabels: {app: web}}, connections: 3"),
        connection_limit("l", "demo", "selector: {matchLabels: {app: web}}, bytesPerSecond: 5k"),
        connection_limit("l", "istio-system", "selector: {matchLabels: {app: other}}, connections: 2"),
        connection_limit("l", "istio-system", "connections: many"),
    ],
    "pod-0": [pod("p0", "n1", "10.0.0.1"), pod("p0", "n2", "10.0.0.1", labels="app: other")],
    "pod-1": [
        pod("p1", "n1", "10.0.0.2", labels="app: web, tier: front"),
        pod("p1", "n1", "10.0.0.9"),
        pod("p1", "n1", "10.0.0.9", labels="app: web, istio.io/use-waypoint: wp"),
        pod("p1", "n1", "10.0.0.9", labels="gateway.networking.k8s.io/gateway-name: wp"),
    ],
    "pod-2": [pod("p2", "n2", "10.0.0.3", ns="shop"), pod("p2", "n2", "10.0.0.1", ns="shop")],
    "service": [
        service("s", "demo", "app: web", "10.96.0.1"),
        service("s", "demo", "app: other", "10.96.0.2"),
        service("s", "demo", "", "10.96.0.2"),
        service("s", "demo", "", "10.96.0.2", labels=CANARY),
        service("s", "demo", "app: web", "10.96.0.1", labels="istio.io/use-waypoint: none"),
    ],
    "external": [
        service("e", "demo", "app: web", "10.96.0.3"),
        service("e", "demo", "app: web", "", "ExternalName"),
    ],
    "slice": [
        endpoint_slice("s", "{addresses: [10.2.0.1]}"),
        endpoint_slice("s", "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p0}}"),
        endpoint_slice("e", "{addresses: [10.2.0.2], conditions: {ready: false}}"),
    ],
    "machine": [
        workload_entry("vm", "demo", "10.5.0.1", ", labels: {app: web}"),
        workload_entry("vm", "demo", "10.5.0.1", ", network: far, labels: {app: other}"),
        workload_entry("vm", "demo", "vm.example.com", labels="app: web, istio.io/use-waypoint: wp"),
    ],
    "entry": [
        service_entry("a", "demo", "x.example.com", "resolution: STATIC, endpoints: [{address: 10.6.0.1}]"),
        service_entry("a", "demo", f"x.example.com, {WEB_HOST}", "addresses: [10.7.0.0/16], resolution: DNS"),
        service_entry(
            "a", "demo", "x.example.com", "resolution: STATIC, workloadSelector: {labels: {app: web}}"
        ),
        service_entry("a", "demo", "x.example.com", "resolution: DNS", ", labels: {app: web}"),
    ],
    "rival": [
        service_entry(
            "b",
            "demo",
            "x.example.com",
            "resolution: STATIC, endpoints: [{address: 10.6.0.2, network: far}]",
            ", creationTimestamp: '2026-01-01T00:00:00Z'",
        ),
        service_entry(
            "b", "demo", "x.example.com", "resolution: STATIC, workloadSelector: {labels: {app: web}}"
        ),
        service_entry("b", "demo", f"{WEB_HOST}, y.example.com", "resolution: DNS"),
    ],
    "stranger": [
        service_entry("c", "shop", f"x.example.com, {WEB_HOST}", "resolution: NONE"),
        service_entry("c", "shop", "x.example.com", "resolution: DNS", ", labels: {app: web}"),
    ],
    "waypoint": [
        gateway("wp", "demo", ip="10.96.9.1"),
        gateway("wp", "demo"),
        gateway("wp", "demo", ip="10.96.9.1", meta=FOR_ALL),
        gateway(
            "wp",
            "demo",
            ip="10.96.9.2",
            meta=", annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}",
        ),
        gateway(
            "wp", "demo", ip="10.96.9.2", allows="from: Selector, selector: {matchLabels: {mesh: 'yes'}}"
        ),
    ],
    "other-waypoint": [gateway("far", "shop", ip="10.96.9.3", allows="from: All")],
    "class": [
        gateway_class("istio-waypoint", "labels: {istio.io/waypoint-for: workload}"),
        gateway_class("istio-waypoint", "annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY}"),
    ],
    "way-out": [
        gateway(
            "out",
            "demo",
            of="istio-remote",
            ip="192.0.2.1",
            meta=", labels: {topology.istio.io/network: far}",
        ),
        gateway(
            "out", "demo", of="istio-remote", ip="192.0.2.2", meta=", labels: {topology.istio.io/network: n9}"
        ),
    ],
    "second-way-out": [
        gateway(
            "more",
            "demo",
            of="istio-remote",
            ip="192.0.2.1",
            meta=", labels: {topology.istio.io/network: far}",
        ),
    ],
    "namespace": [
        namespace("demo"),
        namespace("demo", **DISTRIBUTED),
        namespace("demo", **USES),
        namespace("demo", mesh="'yes'", **USES),
    ],
    "discovered": [namespace("shop", mesh="'yes'"), namespace("shop")],
    "system": [namespace("istio-system"), namespace("istio-system", **{"topology.istio.io/network": "n9"})],
    "config": [
        mesh_config("discoverySelectors: [{matchLabels: {mesh: 'yes'}}]"),
        mesh_config(HIDES),
    ],
    "node": [node("n1", "a"), node("n1", "b")],
    "deny": [deny("d"), deny("d", "app: web"), deny("d", "tier: front"), deny("d", action="ALLOW")],
    "audit": [deny("x", "app: web", action="AUDIT"), deny("x", "app: web")],
    "root": [deny("r", "app: web", ns="istio-system"), deny("r", ns="istio-system")],
    "peer": [
        peer("m", "demo", "STRICT"),
        peer("m", "demo", "PERMISSIVE"),
        peer("m", "istio-system", "STRICT"),
    ],
    "own": [
        peer("o", "demo", "UNSET", "app: web", "8080: {mode: STRICT}"),
        peer("o", "demo", "STRICT", "app: web"),
    ],
    "broken": [
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d}\nspec: {x: 1}\n"
    ],
}
