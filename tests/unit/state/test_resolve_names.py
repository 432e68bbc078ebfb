"""What a host name stands for: dialled as it is, or, where the mesh has that, as if it had been dialled itself."""

from __future__ import annotations

from random import Random

import pytest

from agent.model.address import parse_cidr, parse_ip
from agent.model.outcome import Outcome, Refusal
from agent.model.route import Hop, Route
from agent.model.service import Service
from agent.model.workload import TunnelProtocol, Workload
from agent.state.host_names import NamedHosts
from agent.state.resolve import Options, resolve
from tests.support.mesh import at, gateway, identity, service, snapshot, workload
from tests.support.routes import ENDPOINT, POD, SOURCE, WEB

DB = service("db", "10.9.0.77")
EXTERNAL = workload(
    "external", hostname="db.example", protocol=TunnelProtocol.NONE, services={"db": {80: 8080}}
)
OTHER = service("other", "10.9.0.78")
ALIAS = workload(
    "alias", hostname="alias.example", protocol=TunnelProtocol.NONE, services={"other": {80: 80}}
)
BEHIND = workload("behind", "10.0.0.5", waypoint=gateway("10.0.0.77"))
WAYPOINT = workload("waypoint", "10.0.0.77")
OWN = parse_ip("169.254.77.1")


def dialled(address: str, *more: Workload | Service) -> Route:
    """Where a connection to the Service goes whose endpoint is a name that stands for this address."""
    names = NamedHosts()
    names.told([("db.example", [address], ""), ("alias.example", ["10.9.0.77"], "")], ())
    options = Options(
        names=names,
        mesh_cidrs=(parse_cidr("10.0.0.0/8"),),
        refuse_unknown=True,
        own_addresses=frozenset({OWN}),
    )
    mesh = snapshot(SOURCE, DB, EXTERNAL, *more)
    return resolve(mesh, SOURCE, at("10.9.0.77:80"), Random(1), options)


@pytest.mark.parametrize("address", ["192.0.2.7", "169.254.169.254", "2001:db8::7"])
def test_what_nobody_of_the_mesh_has_is_dialled_as_it_is(address: str) -> None:
    """Though unknown destinations are refused: a Service names it. The pod may dial those by itself too."""
    found = dialled(address)
    assert (found.hop, found.target.ip, found.target.port) == (Hop.TCP, parse_ip(address), 8080)
    assert found.destination == EXTERNAL


def test_a_pod_is_reached_with_mutual_tls_whatever_name_leads_to_it() -> None:
    found = dialled("10.0.0.1", POD)
    assert (found.hop, str(found.target), found.authority) == (Hop.HBONE, "10.0.0.1:15008", "10.0.0.1:8080")
    assert found.accepted == (identity("pod"),)


def test_a_name_is_no_way_past_a_waypoint() -> None:
    found = dialled("10.0.0.5", BEHIND, WAYPOINT)
    assert (str(found.target), found.authority) == ("10.0.0.77:15008", "10.0.0.5:8080")


def test_a_service_is_balanced_and_has_the_ports_that_it_has() -> None:
    with pytest.raises(Refusal) as caught:
        dialled("10.9.0.1", WEB, ENDPOINT)
    assert caught.value.outcome is Outcome.UNDECLARED_SERVICE_PORT


@pytest.mark.parametrize(
    ("address", "outcome", "says"),
    [
        (
            "10.1.2.3",
            Outcome.UNKNOWN_MESH_DESTINATION,
            r"10\.1\.2\.3:8080 \(db\.example\) lies in 10\.0\.0\.0/8",
        ),
        (str(OWN), Outcome.SELF_CALL, "the agent itself"),
    ],
)
def test_where_nobody_is_nobody_is_dialled(address: str, outcome: Outcome, says: str) -> None:
    with pytest.raises(Refusal, match=says) as caught:
        dialled(address)
    assert caught.value.outcome is outcome


@pytest.mark.parametrize("address", ["10.9.0.77", "10.9.0.78"])
def test_names_that_stand_for_each_other_end(address: str) -> None:
    db = service("db", "10.9.0.77", ports={80: 80, 8080: 80})
    other = service("other", "10.9.0.78", ports={80: 80, 8080: 80})
    with pytest.raises(
        Refusal, match=r"db\.example stands for .*, which stands for another host name"
    ) as caught:
        dialled(address, db, other, ALIAS)
    assert caught.value.outcome is Outcome.UNRESOLVED
