"""The answers of a real istiod to the same objects; where istiod is odd, our own better answer instead."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agent.controlplane.read.manifests import parse
from tests.unit.controlplane.translate import golden

DENY_EVERYONE: dict[str, object] = {}
"""A group without rules: matches every connection."""
ODD = {
    "authz-no-labels": "a workload without labels lists no selector policy here; istiod's lists all of them",
    "authz-scopes": "an empty selector is the namespace here; with istiod nobody lists that policy",
    "entry-static": "an endpoint without a network is on the mesh's own here; istiod's has that of the one before",
    "authz-ip-blocks": "an address that is none is an error here; istiod skips it",
    "authz-ports": "a port that is none is an error here; istiod skips it",
    "authz-l7-deny": "a DENY that needs HTTP denies everyone here; istiod's never denies",
    "authz-when": "source.serviceAccount is judged here; istiod's rule never denies",
    "peer-hole-strict-port": "the strict port is guarded here; istiod lists a policy that it never sends",
    "peer-hole-unset": "the other ports are guarded here; istiod lists a policy that it never sends",
}


@pytest.mark.parametrize("case", [case for case in golden.cases() if case not in ODD])
def test_same_as_istiod(case: str) -> None:
    assert golden.as_json(golden.served(golden.source(case))) == golden.expected(case)


def test_every_case_is_there_and_compared() -> None:
    assert len(golden.cases()) == 68
    assert ODD.keys() < set(golden.cases())


def both(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our answer and istiod's."""
    return golden.as_json(golden.served(golden.source(case))), golden.expected(case)


def groups(answer: dict, name: str) -> list:
    return answer["authorizations"][name].get("groups", [])


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("authz-ip-blocks", r"spec\.rules\[0\]\.from\[0\]\.source\.ipBlocks\[0\]: 'nonsense' is not an IP"),
        ("authz-ports", r"spec\.rules\[0\]\.to\[0\]\.operation\.ports\[0\]: 'http' is not a port"),
    ],
)
def test_unusable_values_are_errors_and_the_rest_of_the_case_is_as_istiod_has_it(
    case: str, said: str
) -> None:
    text = golden.source(case)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if re.search(r"\[(nonsense|http),", row))
    [refusal] = parse("bad.yaml", text, stored=True).refused
    error = refusal.errors[0]
    assert re.search(said, str(error)) and (error.file, error.line) == ("bad.yaml", line)
    good = "\n---\n".join(d for d in text.split("\n---\n") if "name: bad," not in d)
    expected = golden.expected(case)
    del expected["authorizations"]["apps/bad"]
    assert golden.as_json(golden.served(good)) == expected


def test_a_deny_that_needs_http_denies_without_it() -> None:
    ours = golden.as_json(golden.served(golden.source("authz-l7-deny")))
    theirs = golden.expected("authz-l7-deny")
    assert ours["addresses"] == theirs["addresses"]
    assert groups(ours, "apps/only") == [DENY_EVERYONE]
    shop = {"rules": [{"matches": [{"namespaces": [{"exact": "shop"}]}]}]}
    assert groups(ours, "apps/d") == [
        DENY_EVERYONE,
        {"rules": [{"matches": [{"destinationPorts": [80]}]}]},
        DENY_EVERYONE,
        shop,
        DENY_EVERYONE,
        shop,
        {"rules": [{"matches": [{"destinationPorts": [82]}]}]},
    ]


def test_service_accounts_can_be_a_condition() -> None:
    ours = golden.as_json(golden.served(golden.source("authz-when")))
    theirs = golden.expected("authz-when")
    accounts = {
        "serviceAccounts": [{"namespace": "a", "serviceAccount": "b"}],
        "notServiceAccounts": [{"namespace": "c", "serviceAccount": "d"}],
    }
    assert groups(theirs, "apps/w")[5] == {"rules": [{"matches": [{}]}]}
    theirs["authorizations"]["apps/w"]["groups"][5] = {"rules": [{"matches": [accounts]}]}
    assert ours == theirs


def strict(*more: dict) -> dict:
    """A rule against everyone without an identity, in a match of its own or in that of a port."""
    return {"rules": [*more, {"matches": [{"notPrincipals": [{"presence": {}}]}]}]}


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        (
            "peer-hole-strict-port",
            {"rules": [{"matches": [{"destinationPorts": [8080], "notPrincipals": [{"presence": {}}]}]}]},
        ),
        ("peer-hole-unset", strict({"matches": [{"notDestinationPorts": [8080]}]})),
    ],
)
def test_a_converted_policy_that_is_listed_is_sent(case: str, rule: dict) -> None:
    ours, theirs = golden.as_json(golden.served(golden.source(case))), golden.expected(case)
    assert ours["addresses"] == theirs["addresses"]
    name = "apps/converted_peer_authentication_web"
    assert ours["authorizations"].pop(name)["groups"] == [rule]
    assert ours["authorizations"] == theirs["authorizations"]


def test_workloads_without_labels_list_no_selector_policy() -> None:
    """istiod lists every selector policy on them."""
    ours, theirs = both("authz-no-labels")
    without = [f"Kubernetes//Pod/{name}" for name in ("apps/bare", "apps/empty", "shop/bare")]
    for name in (*without, "Kubernetes/networking.istio.io/WorkloadEntry/apps/vm"):
        assert theirs["addresses"][name]["workload"].pop("authorizationPolicies")
    assert ours == theirs


def test_an_empty_selector_means_the_namespace() -> None:
    ours, theirs = both("authz-scopes")
    assert theirs["authorizations"]["apps/empty-selector"]["scope"] == "WORKLOAD_SELECTOR"
    theirs["authorizations"]["apps/empty-selector"]["scope"] = "NAMESPACE"
    endpoint = "Kubernetes/networking.istio.io/ServiceEntry/apps/e/10.31.0.1"
    assert theirs["addresses"][endpoint]["workload"].pop("authorizationPolicies"), "its entry has no labels"
    assert ours == theirs


def test_an_endpoint_without_a_network_is_on_that_of_the_mesh() -> None:
    ours, theirs = both("entry-static")
    endpoint = "Kubernetes/networking.istio.io/ServiceEntry/apps/pay/fd00:31::3"
    assert theirs["addresses"][endpoint]["workload"].pop("network") == "net-9", "of the endpoint before it"
    assert ours == theirs


def test_aliases_are_what_istiod_answers_on_demand() -> None:
    for case in golden.cases():
        answers = golden.answer(case).get("onDemand", {})
        addresses = golden.served(golden.source(case)).addresses if answers else {}
        for answer in answers.values():
            for name, aliases in answer["resources"].items():
                if (case, aliases) != ("entry-static", ["net-9/fd00:31::3"]):
                    assert sorted(addresses[name].aliases) == aliases, (case, name)
