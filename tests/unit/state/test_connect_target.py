"""What a CONNECT means at the pod it reached (docs/WIRE.md#inbound)."""

from __future__ import annotations

import pytest

from agent.model.address import parse_ip
from agent.model.outcome import Outcome, Refusal
from agent.model.service import Visibility, WeightedWaypoint
from agent.model.workload import ApplicationTunnel, TunnelToApplication
from agent.state.connect_target import InboundTarget, check_not_own, guess_service, resolve_inbound
from agent.state.resolve import Options
from tests.support.mesh import at, gateway, host, key, service, snapshot, workload

OPTIONS = Options()
V4, V6 = parse_ip("10.0.0.1"), parse_ip("fd00::1")
PLAIN_TUNNEL = ApplicationTunnel(TunnelToApplication.NONE, None)
PROXY = ApplicationTunnel(TunnelToApplication.PROXY, 15088)


def me(**fields):
    return workload("me", "10.0.0.1", "fd00::1", **fields)


def target(authority: str, *resources, pod=None, local=V4) -> InboundTarget:
    pod = pod or me()
    return resolve_inbound(snapshot(pod, *resources), pod, local, authority, OPTIONS)


def refused(authority: str, *resources, pod=None, local=V4) -> Refusal:
    with pytest.raises(Refusal) as caught:
        target(authority, *resources, pod=pod, local=local)
    return caught.value


@pytest.mark.parametrize(
    ("authority", "local"),
    [("10.0.0.1:8080", V4), ("[fd00::1]:8080", V6), ("[::ffff:10.0.0.1]:8080", V4)],
)
def test_own_address(authority: str, local) -> None:
    assert target(authority, local=local) == InboundTarget(
        at(f"[{local}]:8080" if ":" in str(local) else f"{local}:8080")
    )


@pytest.mark.parametrize(
    "authority",
    ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:70000", ":80", "fd00::1:80", "[fd00::1]", "h:x"],
)
def test_authority_that_is_none(authority: str) -> None:
    assert refused(authority).outcome is Outcome.BAD_REQUEST


@pytest.mark.parametrize(
    ("authority", "local", "says"),
    [
        ("10.0.0.2:80", V4, "ip mismatch: 10.0.0.1 != 10.0.0.2"),
        ("[fd00::2]:80", V6, "ip mismatch: fd00::1 != fd00::2"),
        ("[fd00::1]:80", V4, "ip mismatch: 10.0.0.1 != fd00::1"),
    ],
)
def test_authority_of_another_pod(authority: str, local, says: str) -> None:
    error = refused(authority, workload("other", "10.0.0.2", "fd00::2"), local=local)
    assert (error.outcome, error.detail) == (Outcome.ADDRESS_MISMATCH, says)


VIP, POD = "10.9.0.1:80", "10.0.0.2:80"
BY_POD, BY_NAME, BY_VIP = gateway("10.0.0.1"), gateway(key("wp")), gateway("10.9.0.7")
WAYPOINT_SERVICE = service("wp", "10.9.0.7")
SERVING = me(services={"wp": {15008: 15008}})


@pytest.mark.parametrize("where", [BY_POD, BY_NAME, BY_VIP], ids=["pod", "hostname", "vip"])
def test_waypoint_takes_what_it_stands_for(where) -> None:
    web = service("web", "10.9.0.1", waypoint=where)
    behind = workload("behind", "10.0.0.2", waypoint=where)
    for authority in (VIP, POD):
        found = target(authority, web, behind, WAYPOINT_SERVICE, pod=SERVING)
        assert found.destination == at("10.0.0.1:80")


@pytest.mark.parametrize("where", [gateway("10.0.0.66"), gateway(key("other")), gateway("10.9.0.66")])
def test_waypoint_of_others_is_not_taken(where) -> None:
    web = service("web", "10.9.0.1", waypoint=where)
    assert refused(VIP, web, WAYPOINT_SERVICE, pod=SERVING).outcome is Outcome.ADDRESS_MISMATCH


def test_weighted_waypoint_is_taken_also_at_weight_zero() -> None:
    for weight in (1, 0):
        weighted = (WeightedWaypoint(gateway("10.0.0.66"), 9), WeightedWaypoint(BY_NAME, weight))
        web = service("web", "10.9.0.1", waypoint=gateway("10.0.0.66"), weighted_waypoints=weighted)
        assert target(VIP, web, WAYPOINT_SERVICE, pod=SERVING).destination == at("10.0.0.1:80")


def test_application_tunnel_takes_any_address() -> None:
    found = target("192.0.2.7:80", pod=me(application_tunnel=PLAIN_TUNNEL))
    assert found == InboundTarget(at("10.0.0.1:80"))


def test_application_tunnel_with_proxy_header() -> None:
    found = target("192.0.2.7:80", pod=me(application_tunnel=PROXY))
    assert found == InboundTarget(at("10.0.0.1:15088"), None, at("192.0.2.7:80"))


WEB = service("web", "fd09::1", "n2/10.9.0.9", "10.9.0.1", ports={80: 8080, 81: 0, 82: 0})
SERVER = me(services={"web": {81: 9090}})


@pytest.mark.parametrize(("port", "expected"), [(80, 8080), (81, 9090)], ids=["numeric", "named"])
def test_hostname(port: int, expected: int) -> None:
    assert target(f"{host('web')}:{port}", WEB, pod=SERVER) == InboundTarget(at(f"10.0.0.1:{expected}"), WEB)


def test_hostname_with_proxy_header_names_the_vip() -> None:
    pod = me(services={"web": {81: 9090}}, application_tunnel=PROXY)
    found = target(f"{host('web')}:81", WEB, pod=pod)
    assert (found.destination, found.proxy_target) == (at("10.0.0.1:15088"), at("10.9.0.1:81"))
    headless = service("web", ports={81: 0})
    assert target(f"{host('web')}:81", headless, pod=pod).proxy_target == at("10.0.0.1:81")


@pytest.mark.parametrize(
    ("authority", "outcome"),
    [
        (f"{host('web')}:82", Outcome.UNDECLARED_SERVICE_PORT),
        (f"{host('web')}:83", Outcome.UNDECLARED_SERVICE_PORT),
        ("nobody.example.test:80", Outcome.UNKNOWN_MESH_DESTINATION),
        ("secret.example.test:80", Outcome.UNKNOWN_MESH_DESTINATION),
    ],
)
def test_hostname_that_leads_nowhere(authority: str, outcome: Outcome) -> None:
    private = service("s", namespace="shop", hostname="secret.example.test", visibility=Visibility.NAMESPACE)
    error = refused(authority, WEB, private, pod=SERVER)
    assert error.outcome is outcome
    assert error.outcome.status == 503


def test_hostname_prefers_the_own_namespace() -> None:
    mine = service("web", hostname="db.example.test", ports={80: 1})
    theirs = service("web", namespace="shop", hostname="db.example.test", ports={80: 2}, canonical=True)
    assert target("db.example.test:80", theirs, mine).destination.port == 1


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_own_ports_are_never_a_target(port: int) -> None:
    assert refused(f"10.0.0.1:{port}").outcome is Outcome.SELF_CALL
    loop = service("web", ports={80: port})
    assert refused(f"{host('web')}:80", loop).outcome is Outcome.SELF_CALL
    tunnel = me(application_tunnel=ApplicationTunnel(TunnelToApplication.NONE, port))
    assert refused("10.0.0.1:80", pod=tunnel).outcome is Outcome.SELF_CALL
    with pytest.raises(Refusal):
        check_not_own(at(f"10.0.0.1:{port}"), OPTIONS)


def test_tunnel_port_counts_not_the_one_asked_for() -> None:
    assert target("10.0.0.1:15008", pod=me(application_tunnel=PROXY)).destination.port == 15088


A, B = service("a", ports={80: 8080}), service("b", ports={80: 0})


@pytest.mark.parametrize(
    ("port", "forwarded", "expected"),
    [
        (8080, None, "a"),
        (9090, None, "b"),
        (1, None, None),
        (8080, host("b"), "b"),
        (1, host("b"), "b"),
        (8080, "stranger.example.test", "a"),
        (1, host("c"), None),
    ],
)
def test_service_guess(port: int, forwarded: str | None, expected: str | None) -> None:
    pod = me(services={"a": {}, "b": {80: 9090}, "gone": {80: 1}})
    guess = guess_service(snapshot(A, B, service("c"), pod), pod, port, forwarded)
    assert (guess.name if guess else None) == expected
