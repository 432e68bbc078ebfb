"""Where connections go (docs/WIRE.md#outbound), and what is refused."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from agent.model.address import parse_cidr, parse_ip
from agent.model.outcome import Outcome, Unknown
from agent.model.refused_addresses import RefusedAddresses
from agent.model.route import Hop, Route
from agent.model.service import CidrVip, IPFamilies, LoadBalancing, Mode, Service, Visibility
from agent.model.workload import Health, TunnelProtocol
from agent.state.apply import Batch, apply
from agent.state.host_names import NamedHosts
from agent.state.resolve import Options, resolve
from agent.state.snapshot import Snapshot
from tests.support.mesh import at, batch, gateway, identity, service, snapshot, workload
from tests.support.routes import ENDPOINT, POD, SOURCE, WEB, brief, refusal, route

PLAIN = workload("plain", "10.0.0.2", "fd00::2", protocol=TunnelProtocol.NONE)
PASS = LoadBalancing(Mode.PASSTHROUGH)
HBONE, TCP, PASSTHROUGH = Hop.HBONE, Hop.TCP, Hop.PASSTHROUGH

# --- by address


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("10.0.0.1:8080", (HBONE, "10.0.0.1:15008", "10.0.0.1:8080")),
        ("[fd00::1]:8080", (HBONE, "[fd00::1]:15008", "[fd00::1]:8080")),
        ("10.0.0.2:8080", (TCP, "10.0.0.2:8080", None)),
        ("[fd00::2]:8080", (TCP, "[fd00::2]:8080", None)),
        ("192.0.2.1:443", (PASSTHROUGH, "192.0.2.1:443", None)),
        ("[2001:db8::1]:443", (PASSTHROUGH, "[2001:db8::1]:443", None)),
    ],
)
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_workload_address(destination: str, expected: tuple, node: str) -> None:
    """Same node or another: the same route."""
    here = [workload(w.name, *map(str, w.addresses), protocol=w.protocol, node=node) for w in (POD, PLAIN)]
    assert brief(route(here, destination)) == expected


def test_direct_route_accepts_only_the_workload() -> None:
    found = route([POD], "10.0.0.1:8080")
    assert found.accepted == (identity("pod"),)
    assert found.destination == POD
    assert found.service is None


def test_source_waypoint_is_never_used() -> None:
    source = workload("src", "10.0.0.9", waypoint=gateway("10.0.0.77"))
    assert brief(route([POD], "10.0.0.1:80", source=source))[1] == "10.0.0.1:15008"


def test_host_network_workload_is_passed_through_by_address_and_balanced_by_service() -> None:
    host = workload(
        "host", "172.16.0.1", host_network=True, services={"web": {80: 8080}}, protocol=TunnelProtocol.NONE
    )
    assert route([host], "172.16.0.1:80").hop is PASSTHROUGH
    assert brief(route([host, service("web", "10.9.0.1")], "10.9.0.1:80")) == (TCP, "172.16.0.1:8080", None)


# --- what nobody knows

MESH = Options(mesh_cidrs=(parse_cidr("10.0.0.0/8"), parse_cidr("fd00::/16")))


@pytest.mark.parametrize(
    ("destination", "options", "outcome"),
    [
        ("10.1.2.3:80", MESH, Outcome.UNKNOWN_MESH_DESTINATION),
        ("[fd00::55]:80", MESH, Outcome.UNKNOWN_MESH_DESTINATION),
        ("192.0.2.1:80", Options(refuse_unknown=True), Outcome.UNKNOWN_MESH_DESTINATION),
        ("192.0.2.1:80", MESH, None),
        ("10.1.2.3:80", Options(), None),
        ("10.0.0.1:80", MESH, None),
        ("127.0.0.1:15001", Options(), Outcome.SELF_CALL),
        ("[::1]:15008", Options(), Outcome.SELF_CALL),
        ("169.254.77.1:80", Options(own_addresses=frozenset({parse_ip("169.254.77.1")})), Outcome.SELF_CALL),
        ("127.0.0.1:8080", Options(), None),
    ],
)
def test_unknown_destinations(destination: str, options: Options, outcome: Outcome | None) -> None:
    if outcome is None:
        route([POD], destination, options=options)
    else:
        assert refusal([POD], destination, options=options).outcome is outcome


@pytest.mark.parametrize(
    ("destination", "refused", "goes_on"),
    [
        ("10.1.2.3:80", ("/10.1.2.3",), False),
        ("10.1.2.3:80", ("n2/10.1.2.3",), True),
        ("10.1.2.3:80", ("/10.1.2.0/24",), False),
        ("10.1.3.3:80", ("/10.1.2.0/24", "n2/10.1.3.0/24"), True),
        ("192.0.2.1:80", ("*",), False),
        ("10.0.0.1:80", ("*", "/10.0.0.1"), True),
    ],
)
def test_what_cannot_be_used_is_spoken_to_by_nobody_but_by_what_is_known_of_it(
    destination: str, refused: tuple[str, ...], goes_on: bool
) -> None:
    told, _ = apply(snapshot(SOURCE, POD), Batch(refused_addresses=RefusedAddresses.of(refused)))
    if goes_on:
        resolve(told, SOURCE, at(destination), Random(1), Options())
        return
    with pytest.raises(Unknown) as caught:
        resolve(told, SOURCE, at(destination), Random(1), Options())
    assert caught.value.outcome is Outcome.UNKNOWN_MESH_DESTINATION


@pytest.mark.parametrize(
    ("refused", "goes_on"),
    [("/10.0.0.7", False), ("/10.0.0.0/24", False), ("*", True), ("n2/10.0.0.7", True)],
)
def test_a_known_address_in_the_clear_that_is_also_refused_is_not_spoken_to(
    refused: str, goes_on: bool
) -> None:
    """By its own address and by a Service; one of which TLS is known goes on, by TLS."""
    plain = workload("plain", "10.0.0.7", services={"web": {80: 80}}, protocol=TunnelProtocol.NONE)
    told, _ = apply(
        snapshot(SOURCE, POD, plain, service("web", "10.9.0.1")),
        Batch(refused_addresses=RefusedAddresses.of((refused, "/10.0.0.1"))),
    )
    assert resolve(told, SOURCE, at("10.0.0.1:80"), Random(1), Options()).hop is Hop.HBONE
    for destination in ("10.0.0.7:80", "10.9.0.1:80"):
        if goes_on:
            assert resolve(told, SOURCE, at(destination), Random(1), Options()).hop is Hop.TCP
            continue
        with pytest.raises(Unknown) as caught:
            resolve(told, SOURCE, at(destination), Random(1), Options())
        assert caught.value.outcome is Outcome.UNKNOWN_MESH_DESTINATION


@pytest.mark.parametrize("refused", ["/10.1.2.3", "/10.1.2.0/24", "*"])
@pytest.mark.parametrize(
    "passes",
    [
        service("ext", load_balancing=PASS, cidr_vips=(CidrVip("", parse_cidr("10.0.0.0/8")),)),
        service("ext", "10.1.2.3", load_balancing=PASS),
    ],
    ids=["range", "exact"],
)
def test_what_cannot_be_used_is_not_passed_through_either(refused: str, passes: Service) -> None:
    """Neither as it is dialled nor as what a host name stands for."""
    named = workload("far", hostname="far.test", services={"named": {80: 80}}, protocol=TunnelProtocol.NONE)
    resources = (SOURCE, passes, service("named", "10.9.0.9"), named)
    names = NamedHosts()
    names.told([("far.test", ("10.1.2.3",), "")], ())
    told, _ = apply(snapshot(*resources), Batch(refused_addresses=RefusedAddresses.of((refused,))))
    for destination in ("10.1.2.3:80", "10.9.0.9:80"):
        assert resolve(snapshot(*resources), SOURCE, at(destination), Random(1), Options(names=names))
        with pytest.raises(Unknown) as caught:
            resolve(told, SOURCE, at(destination), Random(1), Options(names=names))
        assert caught.value.outcome is Outcome.UNKNOWN_MESH_DESTINATION
        assert "10.1.2.3" in caught.value.detail


# --- by service


@pytest.mark.parametrize(
    ("vip", "expected"),
    [
        ("10.9.0.1:80", (HBONE, "10.0.0.3:15008", "10.0.0.3:8080")),
        ("[fd09::1]:80", (HBONE, "[fd00::3]:15008", "[fd00::3]:8080")),
    ],
)
def test_vip_is_balanced_and_translated(vip: str, expected: tuple) -> None:
    found = route([WEB, ENDPOINT], vip)
    assert brief(found) == expected
    assert found.accepted == (identity("extra", "x"), identity("ep"))
    assert (found.service, found.destination) == (WEB, ENDPOINT)


def test_range_of_a_service_is_balanced() -> None:
    ranged = service("web", cidr_vips=(CidrVip("", parse_cidr("10.9.0.0/16")),))
    assert brief(route([ranged, ENDPOINT], "10.9.7.7:80"))[1] == "10.0.0.3:15008"


def test_all_endpoints_are_used() -> None:
    other = workload("other", "10.0.0.4", services={"web": {80: 1}})
    targets = {str(route([WEB, ENDPOINT, other], "10.9.0.1:80", seed=s).target) for s in range(30)}
    assert targets == {"10.0.0.3:15008", "10.0.0.4:15008"}


def test_client_that_lands_on_itself() -> None:
    me = workload("src", "10.0.0.9", services={"web": {80: 8080}})
    assert brief(route([WEB], "10.9.0.1:80", source=me)) == (HBONE, "10.0.0.9:15008", "10.0.0.9:8080")


@pytest.mark.parametrize(
    ("resources", "destination", "outcome", "says"),
    [
        pytest.param([WEB], "10.9.0.1:80", Outcome.NO_HEALTHY_UPSTREAM, "no healthy endpoint", id="empty"),
        pytest.param(
            [WEB, workload("u", "10.0.0.3", services={"web": {}}, status=Health.UNHEALTHY)],
            "10.9.0.1:80",
            Outcome.NO_HEALTHY_UPSTREAM,
            "apps/web.apps.svc.cluster.local",
            id="all ill",
        ),
        pytest.param(
            [WEB, ENDPOINT], "10.9.0.1:81", Outcome.UNDECLARED_SERVICE_PORT, "declares 80", id="no such port"
        ),
        pytest.param([WEB], "10.9.0.1:81", Outcome.UNDECLARED_SERVICE_PORT, "no port 81", id="port first"),
        pytest.param(
            [service("web", "10.9.0.1", ports={80: 0}), ENDPOINT],
            "10.9.0.1:80",
            Outcome.NO_HEALTHY_UPSTREAM,
            "endpoint for 80",
            id="named port nobody has",
        ),
        pytest.param(
            [WEB, workload("dns", hostname="db.test", services={"web": {}})],
            "10.9.0.1:80",
            Outcome.UNRESOLVED,
            "db.test has not been looked up yet",
            id="hostname endpoint",
        ),
        pytest.param(
            [
                service("web", "10.9.0.1", ip_families=IPFamilies.IPV6_ONLY),
                workload("four", "10.0.0.4", services={"web": {}}),
            ],
            "10.9.0.1:80",
            Outcome.NO_HEALTHY_UPSTREAM,
            "no address that its Service allows",
            id="no address of the family",
        ),
    ],
)
def test_service_that_cannot_serve_never_becomes_passthrough(resources, destination, outcome, says) -> None:
    refused = refusal(resources, destination)
    assert refused.outcome is outcome
    assert says in refused.detail


@pytest.mark.parametrize(
    ("families", "vip", "expected"),
    [
        (IPFamilies.AUTOMATIC, "10.9.0.1:80", "10.0.0.3:15008"),
        (IPFamilies.AUTOMATIC, "[fd09::1]:80", "[fd00::3]:15008"),
        (IPFamilies.DUAL, "[fd09::1]:80", "[fd00::3]:15008"),
        (IPFamilies.IPV4_ONLY, "[fd09::1]:80", "10.0.0.3:15008"),
        (IPFamilies.IPV6_ONLY, "10.9.0.1:80", "[fd00::3]:15008"),
    ],
)
def test_family_of_the_service_then_of_the_client(families: IPFamilies, vip: str, expected: str) -> None:
    web = service("web", "10.9.0.1", "fd09::1", ip_families=families)
    assert str(route([web, ENDPOINT], vip).target) == expected


def test_second_address_of_a_workload_is_kept_when_dialled() -> None:
    multi = workload("multi", "10.0.0.5", "10.0.0.6")
    assert brief(route([multi], "10.0.0.6:80")) == (HBONE, "10.0.0.6:15008", "10.0.0.6:80")


def test_private_service_is_not_there_for_others() -> None:
    private = service("web", "10.9.0.1", namespace="shop", visibility=Visibility.NAMESPACE)
    assert route([private], "10.9.0.1:80").hop is PASSTHROUGH


@pytest.mark.parametrize("destination", ["10.9.0.1:80", "10.9.0.1:99"], ids=["declared", "undeclared"])
def test_passthrough_service(destination: str) -> None:
    found = route([service("web", "10.9.0.1", load_balancing=PASS), ENDPOINT], destination, options=MESH)
    assert found == Route(PASSTHROUGH, at(destination))


def test_address_of_a_workload_that_is_also_a_vip() -> None:
    """Appendix A.10: the waypoint of the Service is not used, but its endpoints are."""
    vip = service("web", "10.0.0.1", waypoint=gateway("10.0.0.77"))
    assert brief(route([POD, vip, ENDPOINT], "10.0.0.1:80"))[1] == "10.0.0.3:15008"
    assert refusal([POD, vip], "10.0.0.1:80").outcome is Outcome.NO_HEALTHY_UPSTREAM


def test_a_route_that_is_known_is_that_of_its_destination_and_state_alone() -> None:
    """The second question of the same, and one of each neighbour of it, after the first was answered."""
    state = snapshot(SOURCE, POD)

    def asked(state: Snapshot, destination: str) -> Route:
        return resolve(state, SOURCE, at(destination), Random(1), Options())

    first = asked(state, "10.0.0.1:8080")
    assert asked(state, "10.0.0.1:8080") is first
    assert asked(state, "10.0.0.1:8081").authority == "10.0.0.1:8081"
    assert asked(state, "[fd00::1]:8080").target == at("[fd00::1]:15008")
    moved = apply(state, batch(replace(POD, service_account="other")))[0]
    assert asked(moved, "10.0.0.1:8080").accepted == (identity("other"),)
    renamed = apply(state, batch(replace(POD, uid="another"), removed=(POD.uid,)))[0]
    found = asked(renamed, "10.0.0.1:8080").destination
    assert found is not None and found.uid == "another"
