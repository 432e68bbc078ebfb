"""The real Envoy as a waypoint, and an application behind it that speaks HTTP.

The waypoint ends HBONE, looks at each request, and goes on by HBONE of its own to the workload that the request is
routed to: what istiod configures for one Service, written down by hand.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from enum import Enum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import Template

from agent.model.address import NamespacedHostname
from tests.support import envoy, mesh
from tests.support.loopback import ours
from tests.support.two_nodes import SERVER, VIP, World

WAYPOINT_ID = "spiffe://cluster.local/ns/apps/sa/waypoint"
CLIENT_ID = "spiffe://cluster.local/ns/apps/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/apps/sa/server"
HOST_OF_WAYPOINT = "127.0.0.1"
PORTS = {"v1": 8081, "v2": 8082}
_TYPES = "type.googleapis.com/envoy.extensions"
_ORIGINAL_DST = "envoy.filters.listener.original_dst"


def _tls(peer: str) -> str:
    return envoy.TLS.replace("$peer", peer)


def _version(name: str) -> str:
    """The cluster of one version: the internal listener that goes on by HBONE, told where to."""
    target = f"{SERVER}:{PORTS[name]}"
    return f"""\
  - name: {name}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{envoy_internal_address: {{server_listener_name: onward, endpoint_id: "{target}"}}}}
          metadata: {{filter_metadata: {{{_ORIGINAL_DST}: {{local: "{target}"}}}}}}
    transport_socket:
      name: internal
      typed_config:
        "@type": {_TYPES}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport
        passthrough_metadata: [{{kind: {{host: {{}}}}, name: {_ORIGINAL_DST}}}]
        transport_socket:
          name: raw
          typed_config: {{"@type": {_TYPES}.transport_sockets.raw_buffer.v3.RawBuffer}}
"""


WAYPOINT = Template(
    f"""{envoy.ADMIN}
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config: {{"@type": {_TYPES}.bootstrap.internal_listener.v3.InternalListener}}
static_resources:
  listeners:
  - name: tunnels
    address: {{socket_address: {{address: {HOST_OF_WAYPOINT}, port_value: $listen}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
            "@type": {_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext
            require_client_certificate: true{_tls(CLIENT_ID)}
      filters:
      - name: hcm
        typed_config:
          "@type": {_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: tunnels
          codec_type: HTTP2
          http2_protocol_options: {{allow_connect: true}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          http_filters:
          - name: peer
            typed_config:
              "@type": {_TYPES}.filters.http.set_filter_state.v3.Config
              on_request_headers:
              - object_key: io.istio.peer_principal
                factory_key: envoy.string
                format_string: {{text_format_source: {{inline_string: "%DOWNSTREAM_PEER_URI_SAN%"}}}}
                shared_with_upstream: ONCE
{envoy.connects_to("requests")}
  - name: requests
    internal_listener: {{}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: requests
          http_filters:
          - name: rbac
            typed_config:
              "@type": {_TYPES}.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
                  reads-of-the-client:
                    permissions: [{{header: {{name: ":method", string_match: {{exact: GET}}}}}}]
                    principals:
                    - filter_state: {{key: io.istio.peer_principal, string_match: {{exact: "{CLIENT_ID}"}}}}
                  writes-of-admins:
                    permissions: [{{any: true}}]
                    principals: [{{header: {{name: x-role, string_match: {{exact: admin}}}}}}]
          - {{name: router, typed_config: {{"@type": {_TYPES}.filters.http.router.v3.Router}}}}
          route_config:
            virtual_hosts:
            - name: web
              domains: ["*"]
              routes:
              - match: {{prefix: /, headers: [{{name: x-version, string_match: {{exact: v2}}}}]}}
                route: {{cluster: v2}}
              - match: {{prefix: /}}
                route: {{cluster: v1, retry_policy: {{retry_on: 5xx, num_retries: 3}}}}
  - name: onward
    internal_listener: {{}}
    listener_filters:
    - name: original_dst
      typed_config: {{"@type": {_TYPES}.filters.listener.original_dst.v3.OriginalDst}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": {_TYPES}.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: onward
          cluster: onward
          tunneling_config: {{hostname: "%DOWNSTREAM_LOCAL_ADDRESS%"}}
  clusters:
  - name: requests
    load_assignment:
      cluster_name: requests
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{envoy_internal_address: {{server_listener_name: requests}}}}}}
    transport_socket:
      name: internal
      typed_config:
        "@type": {_TYPES}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport
        transport_socket:
          name: raw
          typed_config: {{"@type": {_TYPES}.transport_sockets.raw_buffer.v3.RawBuffer}}
{_version("v1")}{_version("v2")}
  - name: onward
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    original_dst_lb_config: {{upstream_port_override: 15008}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {_TYPES}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{allow_connect: true}}}}
    transport_socket:
      name: tls
      typed_config:
            "@type": {_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext{_tls(SERVER_ID)}
"""
)


class Application:
    """HTTP at one port of the server pod: answers with its version, after as many 503 as the test wants."""

    def __init__(self, version: str) -> None:
        self.failures = 0
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked += 1
                fails, outer.failures = outer.failures > 0, max(0, outer.failures - 1)
                body = version.encode()
                self.send_response(503 if fails else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer((SERVER, PORTS[version]), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class By(Enum):
    """How a resource names its waypoint."""

    ADDRESS = "its address"
    SERVICE = "its Service's name"
    WORKLOAD = "its own name"
    RESOLVED_NAME = "its own name, and it has no address but what name servers say"


class Behind(World):
    """Two nodes and the waypoint of a Service, whose versions are two ports of the server pod."""

    def __init__(self, **options: str) -> None:
        super().__init__(**options)
        self.versions = {version: Application(version) for version in PORTS}
        self.waypoint: envoy.Envoy

    def know_waypoint(self, by: By, of_pod: bool, namespace: str) -> None:
        """As the control plane says it: of the Service or of the pod, by any of its names."""
        host, port = self.waypoint.listen
        own_name = NamespacedHostname(namespace, "waypoint.example")
        names = {By.ADDRESS: host, By.SERVICE: mesh.key("waypoint", namespace)}
        where = mesh.gateway(names.get(by, own_name), 15008 if by is By.SERVICE else port)
        pod = mesh.workload(
            "waypoint",
            *([] if by is By.RESOLVED_NAME else [host]),
            namespace=namespace,
            service_account="waypoint",
            services={"waypoint": {15008: port}},
            hostname="" if by in names else own_name.hostname,
        )
        looked_up = [(own_name.hostname, [host], "")] if by is By.RESOLVED_NAME else []
        self.driver.call(lambda: self.here.names.told(looked_up, ()))
        service = mesh.service("waypoint", ours("9.8"), namespace=namespace, ports={15008: port})
        if of_pod:
            self.server = mesh.workload("server", SERVER, service_account="server", waypoint=where)
        else:
            self.web = mesh.service("web", VIP, waypoint=where)
        for plane in (self.here, self.there):
            self.driver.call(partial(plane.know, pod, service))

    def close(self) -> None:
        super().close()
        for application in self.versions.values():
            application.close()


@contextlib.contextmanager
def behind_a_waypoint(
    *,
    by: By = By.ADDRESS,
    of_pod: bool = False,
    namespace: str = "apps",
    identity: str = WAYPOINT_ID,
    key_exchange: str = "",
    **options: str,
) -> Iterator[Behind]:
    """`namespace`: the waypoint's; `identity`: what it proves to be; `key_exchange`: the only one it has, empty: it has
    several; `options` are of both agents."""
    world = Behind(**options)
    try:
        curves = f"tls_params: {{ecdh_curves: [{key_exchange}], " if key_exchange else "tls_params: {"
        configured = Template(WAYPOINT.template.replace("tls_params: {", curves))
        with envoy.run(configured, world.ca, world.ca.issue(identity), CLIENT_ID) as world.waypoint:
            world.know_waypoint(by, of_pod, namespace)
            world.start()
            yield world
    finally:
        world.close()


def ask(
    world: Behind, destination: str = f"{VIP}:80", method: str = "GET", **headers: str
) -> tuple[int, str]:
    """A request of the client's application, which knows of no waypoint: (status, what it said)."""
    connection = http.client.HTTPConnection("web")
    connection.sock = world.connect(destination)
    connection.request(method, "/", headers={name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    said = answer.status, answer.read().decode()
    connection.close()
    return said
