"""What names mean for a pod: the cases of ztunnel's table, and the pods behind a headless Service."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from agent.dns.mesh_names import Meaning, MeshNames
from agent.model.address import parse_cidr, parse_ip
from agent.model.service import CidrVip, IPFamilies, Visibility
from agent.model.workload import Health
from tests.support import mesh

NAMES = MeshNames("cluster.local")
ELSEWHERE = {"namespace": "other"}


def external(name: str, hostname: str, *vips: str, namespace: str = "apps", **fields: object):
    return mesh.service(name, *vips, namespace=namespace, hostname=hostname, **fields)


MESH = mesh.snapshot(
    *[
        mesh.workload("client", "10.0.0.9", network="net"),
        mesh.workload("one", "10.0.0.1", "fd00::1", network="net", services={"headless": {80: 80}}),
        mesh.workload("two", "10.0.0.2", network="net", services={"headless": {80: 80}}),
        mesh.workload(
            "sick", "10.0.0.3", network="net", services={"headless": {80: 80}}, status=Health.UNHEALTHY
        ),
        mesh.workload("alone", "10.0.0.4", network="net"),
        mesh.workload("off", "10.0.0.5", network="net", services={mesh.key("silent"): {80: 80}}),
    ],
    *[
        mesh.service("web", "net/10.1.0.1", "net/fd01::1"),
        mesh.service("web", "net/10.1.0.2", **ELSEWHERE),
        mesh.service("far", "other-net/10.1.0.3"),
        mesh.service("both-nets", "other-net/10.1.0.4", "net/10.1.0.5"),
        mesh.service("old", "net/10.1.0.6", "net/fd01::6", ip_families=IPFamilies.IPV4_ONLY),
        mesh.service("new", "net/10.1.0.7", "net/fd01::7", ip_families=IPFamilies.IPV6_ONLY),
        mesh.service("hidden", "net/10.1.0.8", visibility=Visibility.NAMESPACE, **ELSEWHERE),
        mesh.service("headless"),
        mesh.service("empty"),
        external("said", "www.example.com", "net/240.240.0.1", "net/2001:2::1"),
        external("any", "*.example.com", "net/240.240.0.2"),
        external("closer", "*.deep.example.com", "net/240.240.0.3"),
        external("headless-external", "outside.example.org"),
        external("range", "range.example.org", cidr_vips=(CidrVip("net", parse_cidr("10.9.0.0/16")),)),
        external("first", "shared.example.org", "net/240.1.0.1", namespace="x1"),
        external("canonical", "shared.example.org", "net/240.1.0.2", namespace="x2", canonical=True),
        external("mine", "ours.example.org", "net/240.1.0.4", namespace="apps"),
        external("theirs", "ours.example.org", "net/240.1.0.3", namespace="x2", canonical=True),
        external("p1", "tied.example.org", "net/240.1.0.5", namespace="x1"),
        external("p2", "tied.example.org", "net/240.1.0.6", namespace="x2"),
    ],
)
CLIENT = MESH.workloads["Kubernetes//Pod/apps/client"]


def ips(*texts: str) -> tuple[object, ...]:
    return tuple(map(parse_ip, texts))


class Case(NamedTuple):
    name: str
    addresses: tuple[str, ...] | None
    """None: somebody else is to be asked."""
    version: int = 4
    alias: str = ""


CASES = (
    Case("web.apps.svc.cluster.local", ("10.1.0.1",)),
    Case("web.apps.svc.cluster.local", ("fd01::1",), 6),
    Case("web.apps.svc", ("10.1.0.1",)),
    Case("web.apps", ("10.1.0.1",)),
    Case("web", ("10.1.0.1",)),
    Case("web.other", ("10.1.0.2",)),
    Case("web.other", (), 6),
    Case("web.nowhere", None),
    # As a resolver asks that appends the search domains of its pod.
    Case("web.apps.apps.svc.cluster.local", ("10.1.0.1",), alias="web.apps"),
    Case(
        "web.apps.svc.cluster.local.apps.svc.cluster.local", ("10.1.0.1",), alias="web.apps.svc.cluster.local"
    ),
    Case("web.apps.svc.svc.cluster.local", ("10.1.0.1",), alias="web.apps.svc"),
    Case("www.example.com", ("240.240.0.1",)),
    Case("www.example.com", ("2001:2::1",), 6),
    Case("www.example.com.apps.svc.cluster.local", ("240.240.0.1",), alias="www.example.com"),
    Case("www.example.com.svc.cluster.local", ("240.240.0.1",), alias="www.example.com"),
    Case("www.example.com.cluster.local", ("240.240.0.1",), alias="www.example.com"),
    Case("www.example.com.other.svc.cluster.local", None),
    Case("x.example.com", ("240.240.0.2",)),
    Case("x.y.example.com", ("240.240.0.2",)),
    Case("x.deep.example.com", ("240.240.0.3",)),
    Case("x.example.com", (), 6),
    Case("x.example.com.apps.svc.cluster.local", ("240.240.0.2",)),
    Case("example.com", None),
    Case("far.apps", ()),
    Case("both-nets.apps", ("10.1.0.5",)),
    Case("old.apps", ("10.1.0.6",)),
    Case("old.apps", (), 6),
    Case("new.apps", (), 4),
    Case("new.apps", ("fd01::7",), 6),
    Case("hidden.other", None),
    Case("headless.apps", ("10.0.0.1", "10.0.0.2")),
    Case("headless.apps", ("fd00::1",), 6),
    Case("empty.apps", ()),
    Case("one.headless.apps.svc.cluster.local", ("10.0.0.1",)),
    Case("one.headless.apps.svc.cluster.local", ("fd00::1",), 6),
    Case("two.headless.apps.svc.cluster.local", (), 6),
    Case("one.headless.apps", ("10.0.0.1",)),
    Case("sick.headless.apps.svc.cluster.local", None),
    Case("alone.headless.apps.svc.cluster.local", None),
    Case("one.web.apps.svc.cluster.local", None),
    Case("outside.example.org", None),
    Case("range.example.org", None),
    Case("shared.example.org", ("240.1.0.2",)),
    Case("ours.example.org", ("240.1.0.4",)),
    Case("tied.example.org", ("240.1.0.5",)),
    Case("com", None),
    Case("unknown.example.net", None),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.version}")
def test_a_name_means(case: Case) -> None:
    meaning = NAMES.meaning(MESH, CLIENT, case.name, case.version)
    if case.addresses is None:
        assert meaning is None
        return
    assert isinstance(meaning, Meaning)
    assert (set(meaning.addresses), meaning.alias) == (set(ips(*case.addresses)), case.alias)


def test_a_preferred_namespace_breaks_a_tie_and_nothing_more() -> None:
    names = MeshNames("cluster.local", "x2")

    def address(name: str) -> object:
        meaning = names.meaning(MESH, CLIENT, name, 4)
        return meaning.addresses if meaning else None

    assert address("tied.example.org") == ips("240.1.0.6")
    assert MeshNames("cluster.local", "x1").meaning(MESH, CLIENT, "shared.example.org", 4) == Meaning(
        ips("240.1.0.2")
    )
    assert address("ours.example.org") == ips("240.1.0.4")
