"""Which plaintext is let in: every mode on every level, single ports, and two policies that contradict each other."""

from __future__ import annotations

import itertools

import pytest

from tests.support.controlplane import pod
from tests.support.judge import Judge

WEB, DB = pod("web", "node-a", "10.10.0.5"), pod("db", "node-a", "10.10.0.6", labels="app: db")
MODES = (None, "UNSET", "PERMISSIVE", "DISABLE", "STRICT")


def peer(
    name: str,
    mode: str | None = "STRICT",
    ns: str = "demo",
    selector: str = "",
    ports: str = "",
    created: str = "",
) -> str:
    """Nothing at all without a mode and ports."""
    if mode is None and not ports:
        return ""
    chosen = f"selector: {{matchLabels: {{{selector}}}}}, " if selector else ""
    of_ports = f"portLevelMtls: {{{ports}}}, " if ports else ""
    age = f", creationTimestamp: '{created}'" if created else ""
    return f"""---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {ns}{age}}}
spec: {{{chosen}{of_ports}mtls: {{mode: {mode or "UNSET"}}}}}
"""


def takes_plaintext(judge: Judge, name: str = "web", port: int = 80, namespace: str = "demo") -> bool:
    assert judge.admits(name, port, namespace=namespace), "mutual TLS is always let in"
    return judge.admits(name, port, principal=None, namespace=namespace)


@pytest.mark.parametrize(("mesh", "namespace"), list(itertools.product(MODES, MODES)))
def test_a_port_has_the_mode_nearest_to_it(mesh: str | None, namespace: str | None) -> None:
    """All modes of mesh, namespace, workload and port: what is not UNSET and nearest holds."""
    for own, port in itertools.product(MODES, MODES):
        if mesh is None and namespace is None and own is None and port is None:
            continue
        texts = (
            peer("default", mesh, ns="istio-system")
            + peer("default", namespace)
            + peer("web", own, selector="app: web", ports=f"8080: {{mode: {port}}}" if port else "")
        )
        judge = Judge(a=WEB + DB + texts)
        said = [m for m in (own, namespace, mesh, "PERMISSIVE") if m not in (None, "UNSET")]
        nearest = said[0] if port in (None, "UNSET") else port
        in_vain = port == "DISABLE" and own in (None, "UNSET") and said[0] == "STRICT"
        assert takes_plaintext(judge, port=80) is (said[0] != "STRICT"), texts
        assert takes_plaintext(judge, port=8080) is (nearest != "STRICT" and not in_vain), texts
        assert (
            any("DISABLE of port 8080 does not open it" in each for each in judge.without_effect()) is in_vain
        )
        inherited = next(m for m in (namespace, mesh, "PERMISSIVE") if m not in (None, "UNSET"))
        assert takes_plaintext(judge, "db", 8080) is (inherited != "STRICT"), texts


def test_a_selector_in_the_root_namespace_is_for_the_pods_of_that_namespace() -> None:
    gateway = pod("gw", "node-a", "10.10.0.7", ns="istio-system")
    judge = Judge(
        a=WEB + gateway + peer("gw", ns="istio-system", selector="app: web", ports="90: {mode: DISABLE}")
    )
    assert not takes_plaintext(judge, "gw", namespace="istio-system")
    assert takes_plaintext(judge, "gw", 90, namespace="istio-system")
    assert takes_plaintext(judge, "web")


@pytest.mark.parametrize(
    ("one", "other", "winner"),
    [
        # An age counts before none: what was never applied is younger than what was.
        (peer("a", "PERMISSIVE"), peer("b", created="2026-01-01T00:00:00Z"), "b"),
        (
            peer("a", created="2026-02-01T00:00:00Z"),
            peer("b", "PERMISSIVE", created="2026-01-01T00:00:00Z"),
            "b",
        ),
        (
            peer("b", created="2026-01-01T00:00:00Z"),
            peer("a", "PERMISSIVE", created="2026-01-01T00:00:00Z"),
            "a",
        ),
        (
            peer("a", created="2026-01-01T01:00:00+02:00"),
            peer("b", "PERMISSIVE", created="2026-01-01T00:00:00Z"),
            "a",
        ),
        (peer("z"), peer("a", "PERMISSIVE"), "z"),
    ],
    ids=["aged", "older", "same-age", "zones", "file-order"],
)
@pytest.mark.parametrize("selector", ["", "app: web"])
def test_of_two_on_one_level_the_oldest_counts_then_the_first_file(
    one: str, other: str, winner: str, selector: str
) -> None:
    if selector:
        one, other = (
            t.replace("spec: {", f"spec: {{selector: {{matchLabels: {{{selector}}}}}, ") for t in (one, other)
        )
    judge = Judge(a=WEB + one, b=other)
    strict = next(n for n in "abz" for t in (one, other) if f"name: {n}," in t and "STRICT" in t)
    assert takes_plaintext(judge) is (winner != strict)
    [said] = judge.without_effect()
    loser = next(n for n in "abz" for t in (one, other) if f"name: {n}," in t and n != winner)
    assert f"PeerAuthentication demo/{loser}: it does not count" in said and f"demo/{winner} at" in said
    assert "they contradict each other" in said


def test_an_age_counts_before_every_file_name() -> None:
    aged = peer("b", created="2026-01-01T00:00:00Z")
    assert not takes_plaintext(Judge(**{"0": WEB + peer("a", "PERMISSIVE"), "z": aged}))


def test_in_one_file_the_name_decides() -> None:
    assert takes_plaintext(Judge(a=WEB + peer("z") + peer("a", "PERMISSIVE")))
    assert not takes_plaintext(Judge(a=WEB + peer("b") + peer("c", "PERMISSIVE")))


def test_two_that_agree_are_only_noted() -> None:
    judge = Judge(a=WEB + peer("a"), b=peer("b"))
    assert not judge.without_effect() and "PeerAuthentication demo/b: it does not count" in judge.notes()[0]


def test_a_refused_one_is_strict_for_all_it_may_be_for() -> None:
    """Above the modes of workloads, because it may have been one itself."""
    others = peer("web", "PERMISSIVE", selector="app: web", ports="90: {mode: DISABLE}")
    judge = Judge(a=WEB + DB + others + peer("x").replace("mode", "mod"))
    assert (
        not takes_plaintext(judge)
        and not takes_plaintext(judge, port=90)
        and not takes_plaintext(judge, "db")
    )
    judge = Judge(a=WEB + DB + others + peer("x", selector="app: db").replace("mode: STRICT", "mod: STRICT"))
    assert takes_plaintext(judge) and not takes_plaintext(judge, "db")
    far = pod("far", "node-a", "10.10.0.9", ns="far")
    judge = Judge(a=WEB + far + peer("x").replace("namespace", "namepsace"))
    assert not takes_plaintext(judge) and not takes_plaintext(judge, "far", namespace="far")


def test_after_a_restriction_of_ports_was_good_it_stays_while_it_is_broken() -> None:
    good = peer("web", "PERMISSIVE", selector="app: web", ports="8080: {mode: STRICT}")
    before = Judge(a=WEB + good)
    after = Judge(before.standing, a=WEB + good.replace("8080", "http"))
    assert not takes_plaintext(after, port=8080) and takes_plaintext(after, port=80)
    assert "'http' is not a port" in str(after.said[0]) and "its last good form stays in force" in str(
        after.said[0]
    )
