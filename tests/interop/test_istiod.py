"""Agents under a real istiod, without a cluster: certificates of its CA, its discovery, policies and waypoints.

`ZTUN_INTEROP_ISTIOD` names its program (`scripts/istiod-build`), `ZTUN_KUBE_BIN` a directory with a kube-apiserver
(`scripts/kubernetes-build`), as there is no istiod without an API server.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509

from agent.lab.agents import CONTROL_PLANE_PORT
from redirect.netns import entered
from tests.cluster.istiod import NAMESPACE
from tests.support import envoy
from tests.support.istioctl import Istioctl, named_program
from tests.support.istiod import API_PORT, GATEWAY_API, SECURITY_API, IstiodMesh, named
from tests.support.labmesh import VIP4, World, running
from tests.support.labtraffic import until
from tests.support.mesh_certificate import issued

pytestmark = pytest.mark.kernel
ISTIOD, KUBE = "ZTUN_INTEROP_ISTIOD", "ZTUN_KUBE_BIN"
CLIENT_ID, SERVER_ID = (f"spiffe://cluster.local/ns/demo/sa/{account}" for account in ("client", "server"))
KINDS = ("istio.workload.Address", "istio.security.Authorization")
Raw = dict[str, Any]


def program(variable: str, name: str, what: str) -> Path:
    """What the variable names, or `name` in it. Skips where it is not set, fails where it names what is not there."""
    given = os.environ.get(variable)
    if not given:
        pytest.skip(f"{variable} names no {what}")
    path = Path(given)
    path = path / name if path.is_dir() else path
    assert os.access(path, os.X_OK), f"{variable}={given}: {path} is no program"
    return path.resolve()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    istiod = program(ISTIOD, "pilot-discovery", "istiod (pilot-discovery; scripts/istiod-build makes it)")
    kube = program(
        KUBE, "kube-apiserver", "directory with kube-apiserver (scripts/kubernetes-build makes it)"
    ).parent
    if not (kube / "etcd").exists() and shutil.which("etcd") is None:
        pytest.skip(f"there is no etcd, neither in {KUBE} nor on the PATH")
    make = partial(IstiodMesh, istiod=istiod, kube=kube)
    with running(
        "i", tmp_path_factory.mktemp("istiod"), flags={"report-enrolled": "false"}, make=make
    ) as made:
        yield made


def mesh_of(world: World) -> IstiodMesh:
    assert isinstance(world.mesh, IstiodMesh)
    return world.mesh


@contextmanager
def there(world: World, raw: Raw) -> Iterator[None]:
    """An object in the API for as long as the block."""
    cluster = mesh_of(world).cluster
    cluster.create(raw)
    try:
        yield
    finally:
        cluster.delete(raw)


def security(kind: str, name: str, **spec: Any) -> Raw:
    meta = {"name": name, "namespace": "demo"}
    return {"apiVersion": f"{SECURITY_API}/v1", "kind": kind, "metadata": meta, "spec": spec}


def of_server(kind: str, name: str, **spec: Any) -> Raw:
    return security(kind, name, selector={"matchLabels": {"app": "server"}}, **spec)


def dump(world: World, node: str = "node-a") -> Raw:
    status, text = world.http(node, 15000, "/config_dump")
    assert status == 200
    return dict(json.loads(text))


def test_identities_are_of_its_ca(world: World) -> None:
    (root,) = x509.load_pem_x509_certificates(mesh_of(world).root().encode())
    for node in ("node-a", "node-b"):
        rows = {row["identity"]: row for row in dump(world, node)["certificates"]}
        assert set(rows) == {CLIENT_ID, SERVER_ID}
        for identity, row in rows.items():
            leaf = certificate(row["certChain"][0])
            leaf.verify_directly_issued_by(root)
            said = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert said.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
            assert certificate(row["rootCerts"][0]) == root


def certificate(row: Raw) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(row["pem"]))


def test_what_it_says_leads_to_mutual_tls_on_every_path(world: World) -> None:
    near, far = world.log("node-a"), world.log("node-b")
    for where in (world.address("server-b"), world.address("server-a")):
        assert world.ask("client-a", where) == world.address("client-a")
    assert world.ask("client-a", VIP4, 80) == world.address("client-a")
    line = near.line('direction="outbound"', f"dst.addr={world.address('server-b')}:15008")
    assert f'src.identity="{CLIENT_ID}"' in line and f'dst.identity="{SERVER_ID}"' in line
    assert f'src.identity="{CLIENT_ID}"' in far.line('direction="inbound"', "dst.workload=")


def test_it_sees_the_agents_as_ztunnels_that_have_taken_everything(world: World) -> None:
    def all_is_taken() -> bool:
        status, text = mesh_of(world).debug("/debug/syncz")
        assert status == 200
        rows = json.loads(text)
        assert len(rows) == 2 and {row["proxy_type"] for row in rows} == {"ztunnel"}, text
        kinds = [row["resources"] for row in rows]
        assert all(set(each) == {f"type.googleapis.com/{kind}" for kind in KINDS} for each in kinds), text
        return all(row["sent"] == row["acked"] for each in kinds for row in each.values())

    until(all_is_taken, "what was sent is acknowledged")


def test_istioctl_lists_them_as_ztunnels(world: World, tmp_path: Path) -> None:
    mesh = mesh_of(world)
    api = f"http://127.0.0.1:{API_PORT}"
    istioctl = Istioctl(named_program(), tmp_path, api, mesh.topology.nodes["node-a"].netns)
    mesh.cluster.create(named("ServiceAccount", "default", NAMESPACE))  # whom it asks as
    where = f"{mesh.topology.nodes['node-a'].addresses[0]}:{CONTROL_PLANE_PORT}"
    said = istioctl(
        "proxy-status", "--xds-address", where, "--insecure", "--authority", f"istiod.{NAMESPACE}.svc"
    )
    rows = [line.split() for line in said.splitlines()[1:]]
    assert [row[0] for row in rows] == ["ztun.istio-system"] * 2, said


def test_a_policy_counts_at_once_also_for_what_is_open(world: World) -> None:
    server = world.address("server-b")
    principals = [CLIENT_ID.removeprefix("spiffe://")]
    deny = of_server(
        "AuthorizationPolicy",
        "no-client",
        action="DENY",
        rules=[{"from": [{"source": {"principals": principals}}]}],
    )
    with world.talk("client-a", server) as talk:
        talk.say()
        with there(world, deny):
            until(talk.is_ended, "what was open is ended")
            assert not world.is_served("client-a", server)
            assert world.is_served("outsider-a", server), "who is not meant is let in"
            assert "demo/no-client" in [
                f"{row['namespace']}/{row['name']}" for row in dump(world)["policies"]
            ]
    until(lambda: world.is_served("client-a", server), "the policy is gone")


def test_strict_refuses_plaintext(world: World) -> None:
    server = world.address("server-b")
    assert world.is_served("outsider-a", server)
    with there(world, of_server("PeerAuthentication", "strict", mtls={"mode": "STRICT"})):
        until(lambda: not world.is_served("outsider-a", server), "plaintext is refused")
        assert world.is_served("client-a", server)
    until(lambda: world.is_served("outsider-a", server), "the policy is gone")


WAYPOINT_ID = "spiffe://cluster.local/ns/demo/sa/spare"
BEHIND_IT = """
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: $target, port_value: 8080}}}
"""
LISTENER = """
  - address: {socket_address: {address: 0.0.0.0, port_value: 15008}}"""
WAYPOINT = envoy.terminate(LISTENER, BEHIND_IT, envoy.ADMIN)


@pytest.fixture
def waypoint(world: World) -> Iterator[World]:
    """`spare-a` is the pod of the Gateway `waypoint`, which Service `server` names."""
    mesh = mesh_of(world)
    services = "/api/v1/namespaces/demo/services"
    label = {f"{GATEWAY_API}/gateway-name": "waypoint"}
    spec = {"selector": label, "ports": [{"name": "mesh", "port": 15008, "targetPort": 15008}]}
    host = {"type": "Hostname", "value": "waypoint.demo.svc.cluster.local"}
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    gateway = {
        "apiVersion": f"{GATEWAY_API}/v1",
        "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": "demo"},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
        "status": {"addresses": [host]},
    }

    def labelled(path: str, labels: dict[str, str | None]) -> None:
        mesh.cluster.patch(path, {"metadata": {"labels": labels}})

    pod = {**label, "networking.istio.io/tunnel": "http"}
    labelled("/api/v1/namespaces/demo/pods/spare-a", {**pod})
    try:
        with there(world, named("Service", "waypoint", "demo") | {"spec": spec}), there(world, gateway):
            labelled(f"{services}/server", {"istio.io/use-waypoint": "waypoint"})
            until(lambda: "waypoint" in service(world, "server"), "the agent is told of it")
            yield world
            labelled(f"{services}/server", {"istio.io/use-waypoint": None})
            until(lambda: "waypoint" not in service(world, "server"), "the agent is told that it is gone")
    finally:
        labelled("/api/v1/namespaces/demo/pods/spare-a", dict.fromkeys(pod))


def service(world: World, name: str) -> Raw:
    (found,) = (row for row in dump(world)["services"] if row["name"] == name)
    return dict(found)


@pytest.mark.envoy
def test_a_waypoint_that_it_names_is_on_the_way_and_without_it_nothing_gets_through(waypoint: World) -> None:
    world, log = waypoint, waypoint.log("node-a")
    told = service(world, "server")["waypoint"]
    assert told == {"destination": "demo/waypoint.demo.svc.cluster.local", "hboneMtlsPort": 15008}
    assert not world.is_served("client-a", VIP4, 80), "the Gateway has no proxy yet"
    address = world.address("spare-a")
    assert "CONNECT_FAILED" in log.line('direction="outbound"', f"dst.addr={address}:15008", "error=")
    mesh = mesh_of(world)
    with ExitStack() as stack:
        certified = issued(mesh, WAYPOINT_ID)
        with entered(world.pod("spare-a").netns):
            root = SimpleNamespace(root_pem=mesh.root().encode())
            target = world.address("server-b")
            proxy = stack.enter_context(envoy.run(WAYPOINT, root, certified, CLIENT_ID, target=target))
        assert world.ask("client-a", VIP4, 80) == address, "the server sees the waypoint"
        line = log.line('direction="outbound"', f"dst.addr={address}:15008", "connection complete")
        assert f'dst.identity="{WAYPOINT_ID}"' in line and f"dst.hbone_addr={VIP4}:80" in line
        assert proxy.process.poll() is None
        assert world.ask("client-a", world.address("server-b")) == world.address("client-a"), (
            "the pod has none"
        )


def test_what_is_written_while_it_is_away_counts_when_it_is_back(world: World) -> None:
    server, mesh = world.address("server-b"), mesh_of(world)
    deny = of_server("AuthorizationPolicy", "no-client", action="DENY", rules=[{}])
    mesh.stop_istiod()
    try:
        assert world.is_served("client-a", server), "what is known goes on"
        mesh.cluster.create(deny)
        assert world.is_served("client-a", server)
    finally:
        mesh.start_istiod()
    try:
        until(lambda: not world.is_served("client-a", server), "the policy counts")
    finally:
        mesh.cluster.delete(deny)
    until(lambda: world.is_served("client-a", server), "the policy is gone")
