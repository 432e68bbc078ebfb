"""The real Envoy as an ingress gateway: a pod that the mesh has not captured passes on to pods that it has.

Two ways in, a port each: HBONE in the gateway's own name to a pod, and plaintext to a Service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from string import Template
from types import SimpleNamespace

import pytest

from redirect.netns import entered
from tests.support import envoy
from tests.support.labmesh import VIP4, World, policy_manifest, principal, running
from tests.support.labtraffic import until
from tests.support.mesh_certificate import issued

pytestmark = [pytest.mark.envoy, pytest.mark.kernel]
GATEWAY, GATEWAY_ID = "outsider-a", "spiffe://cluster.local/ns/demo/sa/outsider"
SERVER_ID = "spiffe://cluster.local/ns/demo/sa/server"
BY_HBONE, IN_CLEAR = 8001, 8002
_TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
LISTENERS = f"""
  - address: {{socket_address: {{address: 0.0.0.0, port_value: {IN_CLEAR}}}}}
    filter_chains:
    - filters: [{{name: tcp, typed_config: {{"@type": {_TCP}, stat_prefix: clear, cluster: clear}}}}]
  - address: {{socket_address: {{address: 0.0.0.0, port_value: {BY_HBONE}}}}}"""


def leads_to(name: str, port: int) -> str:
    return f"""
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: ${name}, port_value: {port}}}}}}}
"""


INGRESS = Template(
    envoy.originate(LISTENERS, leads_to("next", 15008), envoy.ADMIN).template
    + f"  - name: clear{leads_to('clear', 80)}"
)
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        made = stack.enter_context(running("g", tmp_path_factory.mktemp("ingress")))
        certified = issued(made.mesh, GATEWAY_ID)
        root = SimpleNamespace(root_pem=(made.mesh.state_dir / "root.pem").read_bytes())
        server = made.address("server-b")
        values = {"authority": f"{server}:8080", "next": server, "clear": VIP4}
        with entered(made.pod(GATEWAY).netns):
            stack.enter_context(envoy.run(INGRESS, root, certified, SERVER_ID, **values))
        yield made


def asked(world: World, way: int) -> str:
    """Who the server saw, of a client that is no part of the mesh."""
    return world.ask("node-a", world.address(GATEWAY), way)


def gets_in(world: World, way: int) -> bool:
    return world.is_served("node-a", world.address(GATEWAY), way)


def test_it_comes_in_both_ways_and_is_known_by_its_identity_where_it_shows_one(world: World) -> None:
    log = world.log("node-b")
    assert asked(world, BY_HBONE) == world.address(GATEWAY)
    line = log.line('direction="inbound"', f'src.identity="{GATEWAY_ID}"')
    assert "dst.hbone_addr=" in line and 'dst.workload="server-b"' in line
    assert asked(world, IN_CLEAR) == world.address(GATEWAY)


def test_where_mutual_tls_is_strict_its_plaintext_does_not_get_in(world: World) -> None:
    with world.manifest("strict", STRICT):
        until(lambda: not gets_in(world, IN_CLEAR), "plaintext is refused")
        assert gets_in(world, BY_HBONE)
    until(lambda: gets_in(world, IN_CLEAR), "it is let in again")


def test_policy_judges_the_gateway_and_what_is_open_through_it(world: World) -> None:
    gateway = world.address(GATEWAY)
    with world.manifest("only", policy_manifest("only", principal("outsider"))):
        until(lambda: not gets_in(world, IN_CLEAR), "who has no name is refused")
        assert gets_in(world, BY_HBONE)
        with world.talk("node-a", gateway, BY_HBONE) as talk:
            talk.say()
            with world.manifest("never", policy_manifest("never", principal("outsider"), action="DENY")):
                until(talk.is_ended, "what was open is ended")
                assert not gets_in(world, BY_HBONE)
    until(lambda: gets_in(world, IN_CLEAR) and gets_in(world, BY_HBONE), "both are let in again")
