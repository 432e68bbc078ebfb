"""Which names of the mesh a pod may mean: ztunnel's table of expansions, wildcards and search domains."""

from __future__ import annotations

import pytest

from agent.dns.names import candidates, expansions, wildcards

EXPANSIONS = {
    "a": ["a.ns.svc.cluster.local"],
    "a.b": ["a.b.svc.cluster.local", "a.b.ns.svc.cluster.local"],
    "a.b.c": ["a.b.c.svc.cluster.local"],
    "a.b.svc": ["a.b.svc.cluster.local", "a.b.svc.svc.cluster.local"],
    "a.b.c.svc": ["a.b.c.svc.cluster.local"],
    "a.b.c.d": [],
    "a.b.svc.cluster.local": [],
}


@pytest.mark.parametrize("name, full", EXPANSIONS.items())
def test_a_short_name_stands_for_services(name: str, full: list[str]) -> None:
    assert list(expansions(name, "ns", "cluster.local")) == full


def test_wildcards_replace_labels_from_the_left() -> None:
    assert list(wildcards("a.b.c.d")) == ["*.b.c.d", "*.c.d", "*.d"]
    assert list(wildcards("a")) == []


def test_search_domains_are_taken_off_again() -> None:
    found = candidates("www.example.com.ns.svc.cluster.local", "ns", "cluster.local")
    assert found[0] == ("www.example.com.ns.svc.cluster.local", "")
    assert ("www.example.com", "www.example.com") in found
    # What the other search domains leave, with what it stands for.
    assert ("www.example.com.ns", "www.example.com.ns") in found
    assert ("www.example.com.ns.svc", "www.example.com.ns.svc") in found
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)


def test_a_search_domain_alone_leaves_nothing_to_look_for() -> None:
    assert [name for name, _ in candidates("cluster.local", "ns", "cluster.local")] == [
        "cluster.local",
        "cluster.local.svc.cluster.local",
        "cluster.local.ns.svc.cluster.local",
    ]
    assert candidates("xcluster.local", "ns", "cluster.local")[0] == ("xcluster.local", "")
    assert all(not stripped for _, stripped in candidates("xcluster.local", "ns", "cluster.local"))


def test_the_domain_is_the_clusters() -> None:
    assert ("a.ns.svc.corp.example", "") in candidates("a", "ns", "corp.example")
