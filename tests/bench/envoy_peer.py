"""The real Envoy as the other end of HBONE in a lab, in both roles: pods of node-b that no agent has captured.

As a server it is the tunnel port of a pod that is announced as one that speaks HBONE itself, and goes on to where the
CONNECT says. As a client it has a port on its pod's loopback for each port of the application behind our agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from string import Template
from types import SimpleNamespace

from redirect.netns import entered
from tests.support import envoy
from tests.support.labmesh import World
from tests.support.mesh_certificate import issued

SERVING, ASKING = "spare-b", "outsider-b"
"""The pods that it is in."""
OURS_ASKING, OURS_SERVING = "client-a", "server-a"
_ID = "spiffe://cluster.local/ns/demo/sa/{}"
_TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_TUNNEL_PORT = """
  - address: {socket_address: {address: 0.0.0.0, port_value: 15008}}"""
_WHERE_IT_SAYS = """
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    original_dst_lb_config: {use_http_header: true, http_header_name: ":authority"}
"""
_TUNNELS = """
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: $server, port_value: 15008}}}
"""
SERVER = envoy.terminate(
    _TUNNEL_PORT, _WHERE_IT_SAYS, envoy.ADMIN, http2=", max_concurrent_streams: $streams"
)


def _way_in(port: int) -> str:
    return f"""
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"""


def client(ports: Sequence[int]) -> Template:
    """What comes to one of these ports of the loopback goes by HBONE to the same port of `server`."""
    *others, last = ports
    listeners = "".join(
        f"""{_way_in(port)}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": {_TCP}
          stat_prefix: "{port}"
          cluster: next
          tunneling_config: {{hostname: "$server:{port}"}}"""
        for port in others
    )
    template = envoy.originate(listeners + _way_in(last), _TUNNELS, envoy.ADMIN).template
    return Template(template.replace("$authority", f"$server:{last}"))


@contextmanager
def peers(world: World, ports: Sequence[int]) -> Iterator[None]:
    """Both of them; the pod in which it serves is announced as one that speaks HBONE."""
    manifest = world.mesh.manifests / "pods.yaml"
    world.write(
        manifest,
        manifest.read_text().replace(
            f"pod: {SERVING}}}", f"pod: {SERVING}, networking.istio.io/tunnel: http}}"
        ),
    )
    world.mesh.wait_announced(world.pod(SERVING))
    root = SimpleNamespace(root_pem=(world.mesh.state_dir / "root.pem").read_bytes())
    roles = (
        (SERVING, SERVER, "spare", "client", {}),
        (ASKING, client(ports), "outsider", "server", {"server": world.address(OURS_SERVING)}),
    )
    with ExitStack() as stack:
        for pod, template, account, peer, values in roles:
            certified = issued(world.mesh, _ID.format(account))
            with entered(world.pod(pod).netns):
                stack.enter_context(envoy.run(template, root, certified, _ID.format(peer), **values))
        yield
