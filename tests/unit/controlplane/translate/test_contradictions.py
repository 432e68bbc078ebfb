"""A policy that takes back all it says is said to do nothing, and does; one that takes back some of it is none."""

from __future__ import annotations

import pytest

from agent.controlplane.read.remarks import Scope, Weight
from tests.support.controlplane import deny, pod
from tests.support.judge import Judge

WEB = pod("web", "node-a", "10.10.0.5")
HERE = "principals: [cluster.local/ns/demo/sa/thief]"
FROM_THIEF = f"{{source: {{{HERE}, notPrincipals: ['cluster.local/ns/demo/*']}}}}"


@pytest.mark.parametrize("action", ["DENY", "ALLOW"])
@pytest.mark.parametrize(
    ("rule", "place", "excluded"),
    [
        (f"from: [{FROM_THIEF}]", "from[0].source", "cluster.local/ns/demo/sa/thief"),
        ("from: [{source: {namespaces: [a, b], notNamespaces: ['*']}}]", "from[0].source", "a, b"),
        ("from: [{source: {namespaces: ['*-a'], notNamespaces: ['*a']}}]", "from[0].source", "*-a"),
        (
            "from: [{source: {ipBlocks: [10.0.0.0/8, 'fd00::1'], notIpBlocks: ['::/0', 10.1.2.3/8]}}]",
            "from[0].source",
            "10.0.0.0/8, fd00::1/128",
        ),
        (
            "from: [{source: {serviceAccounts: [a], notServiceAccounts: [demo/a]}}]",
            "from[0].source",
            "demo/a",
        ),
        ("to: [{operation: {ports: ['80'], notPorts: ['80', '81']}}]", "to[0].operation", "80"),
        ("when: [{key: source.namespace, values: [a], notValues: [a]}]", "when[0]", "a"),
    ],
)
def test_a_rule_that_excludes_all_it_lists_is_said_to_do_nothing(
    rule: str, place: str, excluded: str, action: str
) -> None:
    judge = Judge(a=WEB + deny("p", rules=f"[{{{rule}}}]", action=action))
    [remark] = [each for each in judge.said if each.weight is Weight.INEFFECTIVE]
    assert (remark.weight, remark.scope) == (Weight.INEFFECTIVE, Scope("demo"))
    assert remark.field == f"spec.rules[0].{place}"
    verb = "denies" if action == "DENY" else "allows"
    assert (
        f"lists {excluded} and excludes all of that, so nothing matches it: the rule {verb} nothing"
        in str(remark)
    )
    thief = judge.admits("web", principal="cluster.local/ns/demo/sa/thief")
    assert thief is (action == "DENY")


@pytest.mark.parametrize(
    "source",
    [
        f"{HERE}, notPrincipals: [cluster.local/ns/demo/sa/other]",
        "principals: ['*'], notPrincipals: ['cluster.local/*']",
        "principals: ['cluster.local/*'], notPrincipals: ['*/sa/web']",
        "namespaces: [a, b], notNamespaces: [a]",
        "namespaces: ['a*'], notNamespaces: ['ab*', '*a']",
        "namespaces: ['*a', '*'], notNamespaces: ['a*', '*ba']",
        "namespaces: [b], notNamespaces: ['a*', '*a', ab]",
        "ipBlocks: [10.0.0.0/8], notIpBlocks: [10.0.0.0/16, 'fd00::/8']",
        "namespaces: [a], notPrincipals: [cluster.local/ns/a/sa/b]",
    ],
)
def test_a_source_that_excludes_some_of_what_it_lists_means_the_others(source: str) -> None:
    assert not Judge(a=WEB + deny("p", rules=f"[{{from: [{{source: {{{source}}}}}]}}]")).without_effect()


def test_a_rule_that_has_another_source_does_what_that_one_says() -> None:
    another = "{source: {principals: [cluster.local/ns/demo/sa/web]}}"
    judge = Judge(a=WEB + deny("p", rules=f"[{{from: [{another}, {FROM_THIEF}]}}]"))
    [remark] = [each for each in judge.said if each.weight is Weight.INEFFECTIVE]
    assert remark.field == "spec.rules[0].from[1].source"
    assert "the rule denies by its other entries alone; take it out" in str(remark)
    assert judge.admits("web", principal="cluster.local/ns/demo/sa/thief")
    assert not judge.admits("web", principal="cluster.local/ns/demo/sa/web")
