"""Which pods are meant for the mesh: a row for every case, with the reason that people read."""

from __future__ import annotations

import pytest

from agent.kubernetes.decision import Rules, decide
from agent.kubernetes.objects import Namespace, Pod, pod_of
from agent.kubernetes.selectors import DEFAULT, SelectorError, enablements
from tests.support import kube

MODE = "istio.io/dataplane-mode"
AMBIENT, NONE = {MODE: "ambient"}, {MODE: "none"}


def pod(labels: dict[str, str] | None = None, namespace: str = "demo", **more: object) -> Pod:
    return pod_of(kube.pod("web", namespace, labels=labels, uid="u", **more))  # type: ignore[arg-type]


ROWS = [
    ("nothing", pod(), {}, False, "has the label"),
    ("namespace", pod(), AMBIENT, True, "namespace with istio.io/dataplane-mode=ambient"),
    ("pod", pod(AMBIENT), {}, True, "pod with istio.io/dataplane-mode=ambient"),
    ("both", pod(AMBIENT), AMBIENT, True, "pod with"),
    ("opt-out", pod(NONE), AMBIENT, False, "its label istio.io/dataplane-mode is 'none'"),
    ("pod against its namespace", pod(AMBIENT), NONE, True, "pod with"),
    ("another mode of the pod", pod({MODE: "other"}), AMBIENT, True, "namespace with"),
    ("another mode of the namespace", pod(), {MODE: "other"}, False, "has the label"),
    ("upper case is another value", pod({MODE: "Ambient"}), {}, False, "'Ambient'"),
    ("host network", pod(AMBIENT, hostNetwork=True), AMBIENT, False, "host's network"),
    ("host network: false", pod(AMBIENT, hostNetwork=False), {}, True, "pod with"),
    ("sidecar", pod(AMBIENT, annotations={"sidecar.istio.io/status": ""}), AMBIENT, False, "sidecar"),
    (
        "old opt-out",
        pod(annotations={"ambient.istio.io/redirection": "disabled"}),
        AMBIENT,
        True,
        "namespace",
    ),
    ("excluded namespace", pod(AMBIENT, "kube-system"), AMBIENT, False, "kube-system is excluded"),
    ("node proxy", pod({"app": "ztunnel"}, "istio-system"), AMBIENT, False, "node proxy itself"),
    ("its label elsewhere", pod({"app": "ztunnel"}), AMBIENT, True, "namespace"),
    ("its namespace without the label", pod({}, "istio-system"), AMBIENT, True, "namespace"),
]


@pytest.mark.parametrize(("case", "pod", "labels", "is_wanted", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_decision(case: str, pod: Pod, labels: dict[str, str], is_wanted: bool, reason: str) -> None:
    found = decide(pod, Namespace(pod.namespace, "u", labels), Rules())
    assert (found.is_wanted, reason in found.reason) == (is_wanted, True), found


def test_an_excluded_namespace_is_whichever_is_configured() -> None:
    rules = Rules(excluded=frozenset({"demo"}))
    assert not decide(pod(AMBIENT), Namespace("demo", "u", AMBIENT), rules).is_wanted
    assert decide(pod(AMBIENT, "kube-system"), Namespace("kube-system", "u", {}), rules).is_wanted


CHART = [
    {"podSelector": {"matchLabels": {MODE: "ambient"}}},
    {
        "podSelector": {"matchExpressions": [{"key": MODE, "operator": "NotIn", "values": ["none"]}]},
        "namespaceSelector": {"matchLabels": {MODE: "ambient"}},
    },
]


def test_the_value_of_istios_chart_means_what_is_built_in() -> None:
    assert enablements(CHART) == DEFAULT


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    [
        ("In", ["a", "b"], {"k": "b"}, True),
        ("In", ["a", "b"], {"k": "c"}, False),
        ("In", ["a"], {}, False),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("NotIn", ["a"], {"k": "b"}, True),
        ("NotIn", ["a"], {}, True),
        ("Exists", [], {"k": ""}, True),
        ("Exists", [], {}, False),
        ("DoesNotExist", [], {}, True),
        ("DoesNotExist", [], {"k": "a"}, False),
    ],
)
def test_label_selectors(operator: str, values: list[str], labels: dict[str, str], matches: bool) -> None:
    expression: kube.Raw = {"key": "k", "operator": operator} | ({"values": values} if values else {})
    (found,) = enablements([{"podSelector": {"matchExpressions": [expression]}}])
    assert found.matches(labels, {}) is matches


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "it takes a list"),
        ([], "it takes a list"),
        ([{}], r"\[0\] selects by nothing"),
        (["x"], r"\[0\] is no table"),
        ([{"podSelektor": {}}], r"\[0\] has a field 'podSelektor': known are podSelector, namespaceSelector"),
        ([{"podSelector": {"matchLabels": {"a": 1}}}], r"podSelector.matchLabels is no table of texts"),
        ([{"podSelector": {"matchExpressions": [{"operator": "In"}]}}], r"matchExpressions\[0\] has no key"),
        ([{"podSelector": {"matchExpressions": [{"key": "a", "operator": "in"}]}}], "'in': it takes In"),
        ([{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}], "In takes values"),
        (
            [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}}],
            "Exists takes no values",
        ),
    ],
)
def test_a_list_that_cannot_be_used_says_where(raw: object, words: str) -> None:
    with pytest.raises(SelectorError, match=words):
        enablements(raw)
