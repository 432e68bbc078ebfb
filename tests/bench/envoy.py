"""Configuration of the two Envoys: TCP in, pooled HTTP/2 CONNECT over mTLS 1.3 between them, TCP out.

The roles of tests/support/envoy.py, which are held to interoperate, with defaults left alone: only the circuit
breakers are raised, since 2,000 idle connections are more than Envoy lets through by default. Both are made for
capture: they listen in one private namespace, run and dial in the other, and dial in the client pod's name as ztun
does. To another network the first one has one tunnel in another, and a gateway in a pod ends the outer one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from string import Template

from cryptography.hazmat.primitives import serialization

from agent.controlplane.serve.ca import open_authority
from agent.controlplane.state_dir import StateDirectory
from agent.identity.csr import make_request
from agent.model.identity import Identity
from tests.support.envoy import binary, originate, terminate, tunnelled, tunnels

CONCURRENCY = 2
# IP_TRANSPARENT (19): packets for any address are taken, and an address is dialled from that is not here.
_LISTENER = """
  - address: {socket_address: {address: 0.0.0.0, port_value: $listen, network_namespace_filepath: $listen_netns}}
    transparent: true"""
_CLUSTER = """
    upstream_bind_config:
      source_address: {address: $source, port_value: 0}
      socket_options: [{level: 0, name: 19, int_value: 1, state: STATE_PREBIND}]
    circuit_breakers:
      thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: $next_host, port_value: $next_port}}}
"""
ORIGINATE = originate(_LISTENER, _CLUSTER)
TERMINATE = terminate(_LISTENER, _CLUSTER)
_INTERNAL = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
_ONLY_INSIDE = """
  - name: outer
    internal_listener: {}"""
_TO_THE_OUTER = """
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {envoy_internal_address: {server_listener_name: outer}}}
"""
_IN_A_POD = """
  - address: {socket_address: {address: 0.0.0.0, port_value: $listen}}"""
_FIXED = """
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: $next_host, port_value: $next_port}}}
"""
GATEWAY = terminate(_IN_A_POD, _FIXED)
ORIGINATE_TWICE = Template(
    f"""bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config: {{"@type": {_INTERNAL}}}
static_resources:
  listeners:{tunnelled(_LISTENER, "inner")}{tunnelled(_ONLY_INSIDE, "outer")}
  clusters:{tunnels("inner", _TO_THE_OUTER)}{tunnels("outer", _CLUSTER, "$gateway")}
"""
)
"""The inner connection goes to a listener of its own, that nobody else can reach: Envoy has no other way to do it."""


def write_credentials(directory: Path, state_dir: Path, identity: str) -> None:
    """`leaf.pem`, `leaf.key` and `ca.pem`: a certificate of the lab's own authority, as ztun's are."""
    authority = open_authority(StateDirectory(state_dir), "cluster.local", lambda: datetime.now(UTC))
    key, csr_pem = make_request(Identity.parse(identity))
    chain = authority.sign(csr_pem, identity, 86400, datetime.now(UTC))
    directory.mkdir(parents=True, mode=0o700)
    (directory / "leaf.pem").write_text("".join(chain))
    (directory / "ca.pem").write_text(authority.root_pem)
    key_file = directory / "leaf.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def command(config: Path, base_id: int) -> list[str]:
    return [
        str(binary()),
        *("-c", str(config), "--concurrency", str(CONCURRENCY), "-l", "warning"),
        *("--disable-hot-restart", "--base-id", str(base_id)),
    ]
