"""Files side by side: what is refused, what stays in its place, what is closed. Nothing is opened by a mistake."""

from __future__ import annotations

import pytest

from agent.controlplane.read.admission import NOTHING, Files, Standing, admit
from agent.controlplane.read.inventory import Inventory, collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import EVERYWHERE, Rule
from agent.controlplane.read.refused import Outcome
from agent.controlplane.read.yaml_tree import ManifestError
from tests.support.controlplane import NAMESPACE, deny, pod

WEB = pod("web-0", "node-a", "10.10.0.5")
DENY = deny("d", selector="app: web")
BROKEN = DENY.replace("action", "acton")
STRICT = """---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""
SERVICE = """---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, clusterIP: 10.96.0.1, ports: [{port: 80}]}
"""


def files(**texts: str | ManifestError) -> Files:
    return {
        f"{name}.yaml": parse(f"{name}.yaml", text) if isinstance(text, str) else text
        for name, text in texts.items()
    }


def first(**texts: str) -> Standing:
    return admit(NOTHING, files(**texts), is_first=True)


def inventory(standing: Standing) -> Inventory:
    return collect(standing.served())


def outcomes(standing: Standing) -> list[Outcome]:
    return [refusal.outcome for refusal in standing.refused]


def test_a_refused_document_keeps_its_last_good_form_and_its_neighbours_change() -> None:
    good = first(a=WEB + DENY + SERVICE)
    after = admit(good, files(a=WEB + BROKEN + SERVICE.replace("port: 80", "port: 81")))
    assert outcomes(after) == [Outcome.KEPT]
    assert inventory(after).policies == inventory(good).policies
    assert inventory(after).services[0].ports[0].port == 81
    mended = admit(after, files(a=WEB + DENY.replace("[{}]", "[{}, {}]") + SERVICE))
    assert not mended.errors and len(inventory(mended).policies[0].rules) == 2
    gone = admit(after, files(a=WEB + SERVICE))
    assert not gone.errors and inventory(gone).policies == ()


def test_at_first_a_refused_policy_denies_its_targets_until_it_is_mended() -> None:
    standing = first(a=WEB + BROKEN)
    assert outcomes(standing) == [Outcome.CLOSED] and standing.is_whole
    [policy] = inventory(standing).policies
    assert (policy.action, policy.meta.name, dict(policy.selector or {})) == ("DENY", "d", {"app": "web"})
    assert len(policy.rules) == 1 and not policy.rules[0].sources
    assert inventory(admit(standing, files(a=WEB + BROKEN + SERVICE))).policies == (policy,), "still"
    assert inventory(admit(standing, files(a=WEB + DENY))).policies[0].rules != ()
    assert inventory(admit(standing, files(a=WEB))).policies == ()


@pytest.mark.parametrize(
    ("text", "namespace", "selector"),
    [
        (BROKEN, "demo", {"app": "web"}),
        (DENY.replace("selector", "selecter"), "demo", None),
        (DENY.replace("matchLabels", "matchlabels"), "demo", {}),
        (DENY.replace("matchLabels: {app: web}", "matchLabels: [web]"), "demo", None),
        (BROKEN.replace("namespace", "namepsace"), EVERYWHERE, None),
        (BROKEN.replace("metadata: {", "metadata: {labls: {}, "), "demo", {"app": "web"}),
        (DENY.replace(", namespace: demo", ""), EVERYWHERE, None),
        (BROKEN.replace("name: d", "name: D"), "demo", {"app": "web"}),
        (BROKEN.replace("spec: {", "spec: {selector: {matchLabels: {a: b}}, "), "demo", None),
        (BROKEN.replace("namespace: demo", "namespace: other, namespace: demo"), EVERYWHERE, None),
        (BROKEN.replace("metadata: {", "metadata: {labels: {}, labels: {}, "), "demo", None),
    ],
)
def test_what_a_refused_policy_does_not_say_for_certain_counts_as_everything(
    text: str, namespace: str, selector: dict[str, str] | None
) -> None:
    [policy] = inventory(first(a=text)).policies
    assert (policy.meta.namespace, policy.selector) == (namespace, selector)
    assert policy.action == "DENY" and len(policy.rules) == 1


def test_at_first_a_refused_peer_authentication_is_strict_above_all_others() -> None:
    [peer] = inventory(first(a=STRICT.replace("mode", "mod"))).peer_authentications
    assert peer.is_stand_in and (peer.meta.namespace, peer.mode, peer.selector) == ("demo", "STRICT", None)


@pytest.mark.parametrize("target", ["targetRefs: []", "targetRef: {}", "targetRef: "])
def test_a_target_that_names_nothing_closes_what_the_policy_may_be_for(target: str) -> None:
    standing = first(a=deny("d").replace("action:", f"{target}, action:"))
    [policy] = inventory(standing).policies
    assert standing.errors and not policy.is_targeted and policy.rules == (Rule(),)


@pytest.mark.parametrize(
    "text",
    [
        BROKEN.replace("acton: DENY", "action: AUDIT, acton: x"),
        BROKEN.replace("metadata: {", "metadata: {annotations: {istio.io/dry-run: 'true'}, "),
        BROKEN.replace("selector: {matchLabels: {app: web}}", "targetRef: {kind: Gateway, name: w}"),
    ],
    ids=["audit", "dry-run", "waypoint"],
)
def test_what_would_never_have_concerned_node_proxies_closes_nothing(text: str) -> None:
    standing = first(a=text)
    assert standing.errors and inventory(standing).policies == ()


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        (WEB.replace("spec:", "sepc:"), "it is not served"),
        (SERVICE.replace("port: 80", "port: x"), "it is not served"),
        (BROKEN, "it is not in force"),
    ],
)
def test_pods_and_services_are_served_and_policies_in_force(text: str, effect: str) -> None:
    [refusal] = admit(NOTHING, files(a=text), is_first=False).refused
    assert (refusal.outcome, refusal.effect) == (Outcome.LEFT_OUT, effect)


def test_in_a_running_mesh_a_policy_that_never_was_good_changes_nothing() -> None:
    good = first(a=WEB)
    after = admit(good, files(a=WEB, b=BROKEN))
    assert outcomes(after) == [Outcome.LEFT_OUT] and inventory(after).policies == ()
    assert outcomes(admit(after, files(a=WEB, b=BROKEN))) == [Outcome.LEFT_OUT]


def test_a_policy_that_is_broken_while_it_moves_or_is_renamed_stays_in_force() -> None:
    good = first(a=WEB, b=DENY)
    moved = admit(good, files(a=WEB + BROKEN))
    assert inventory(moved).policies == inventory(good).policies and outcomes(moved) == [Outcome.KEPT]
    renamed = admit(good, files(a=WEB, b=BROKEN.replace("name: d", "name: e")))
    assert inventory(renamed).policies == inventory(good).policies
    again = admit(renamed, files(a=WEB, b=BROKEN.replace("name: d", "name: f")))
    assert inventory(again).policies == inventory(good).policies
    mended = admit(again, files(a=WEB, b=DENY.replace("name: d", "name: f")))
    assert [p.meta.name for p in inventory(mended).policies] == ["f"] and not mended.errors


def test_a_document_that_may_be_anything_keeps_all_that_disappears_from_its_file() -> None:
    good = first(a=WEB + DENY, b=SERVICE)
    after = admit(good, files(a=WEB + "---\nkind: [\n", b=SERVICE))
    assert inventory(after).policies == inventory(good).policies and after.is_whole


@pytest.mark.parametrize("text", ["a: [\n", "kind: Pod\n", "- x\n", "apiVersion: v1\nmetadata: {}\n"])
def test_at_first_a_document_that_may_be_anything_is_waited_for(text: str) -> None:
    assert not first(a=WEB, b=text).is_whole
    assert admit(first(a=WEB), files(a=WEB, b=text)).is_whole, "later it is not"


def test_at_first_a_mesh_config_that_cannot_be_read_is_waited_for() -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: '['}\n"
    assert not first(a=WEB, b=config).is_whole
    assert first(a=WEB, b=config.replace("istio-system", "demo")).is_whole, (
        "this one would not have been used"
    )


def test_a_file_that_cannot_be_read_leaves_all_of_it_as_it_was() -> None:
    """Also what was closed or kept in it."""
    unreadable = ManifestError("it is empty", file="b.yaml", line=1)
    closed = first(a=WEB, b=BROKEN)
    after = admit(closed, files(a=WEB, b=unreadable))
    assert list(after.served()) == list(closed.served())
    kept = admit(first(a=WEB, b=DENY), files(a=WEB, b=BROKEN))
    after = admit(kept, files(a=WEB, b=unreadable))
    assert list(after.served()) == list(kept.served()) and outcomes(after) == [Outcome.KEPT]
    assert not admit(NOTHING, files(a=WEB, b=unreadable), is_first=True).is_whole


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (pod("web-0", "node-b", "10.10.0.6"), "the name is already that of Pod demo/web-0 at"),
        (
            pod("db-0", "node-b", "10.10.0.5"),
            "address 10.10.0.5 is already that of Pod demo/web-0",
        ),
        (SERVICE.replace("10.96.0.1", "10.10.0.5"), "address 10.10.0.5 is already that of"),
    ],
)
def test_what_clashes_names_both_places_and_the_newcomer_is_refused(second: str, said: str) -> None:
    good = first(b=WEB)
    after = admit(good, files(a=second + "---\n" + NAMESPACE, b=WEB))
    assert inventory(after).pods == inventory(good).pods and "demo" in inventory(after).namespaces
    [error] = after.errors
    assert said in str(error) and str(error).startswith("a.yaml:2") and "b.yaml:2 (document 1)" in str(error)
    assert not admit(after, files(a=second)).errors, "alone it is good"


def test_an_object_that_changes_into_a_clash_keeps_its_form() -> None:
    other = pod("db-0", "node-b", "10.10.0.6")
    good = first(a=WEB, b=other)
    after = admit(good, files(a=WEB, b=other.replace("10.10.0.6", "10.10.0.5")))
    assert list(after.served()) == list(good.served()) and outcomes(after) == [Outcome.KEPT]


def test_an_object_may_move_to_another_file_and_addresses_may_change_hands_at_once() -> None:
    good = first(a=WEB, b=SERVICE)
    moved = admit(good, files(b=WEB, a=SERVICE))
    assert not moved.errors and len(list(moved.served())) == 2
    one, other = pod("a", "node-a", "10.0.0.1"), pod("b", "node-a", "10.0.0.2")
    swapped = admit(
        first(x=one, y=other),
        files(x=one.replace("10.0.0.1", "10.0.0.2"), y=other.replace("10.0.0.2", "10.0.0.1")),
    )
    assert not swapped.errors and [str(p.ips[0]) for p in inventory(swapped).pods] == ["10.0.0.2", "10.0.0.1"]


def test_the_same_object_twice_is_said_and_does_no_harm() -> None:
    standing = first(a=WEB + DENY, b=WEB + DENY)
    assert not standing.errors and len(list(standing.served())) == 2
    assert [str(r).partition(": it is")[0] for r in standing.remarks] == [
        "b.yaml:2 (document 1): Pod demo/web-0",
        "b.yaml:8 (document 2): AuthorizationPolicy demo/d",
    ]


def test_at_first_two_policies_of_one_name_deny() -> None:
    """Which of them is meant nobody knows: the first counts, and the other's targets are closed."""
    standing = first(a=deny("d", rules="[{to: [{operation: {ports: ['80']}}]}]"), b=DENY)
    policies = inventory(standing).policies
    assert [(p.meta.name, p.action) for p in policies] == [("d", "DENY"), ("refused_b.yaml_2", "DENY")]
    assert dict(policies[1].selector or {}) == {"app": "web"}


def test_at_first_every_refused_policy_of_one_name_closes_its_own_targets() -> None:
    other = deny("d", selector="app: db").replace("action", "acton")
    names = {
        p.meta.name: dict(p.selector or {})
        for p in inventory(
            first(a=BROKEN, b=other, c=deny("e"), d=deny("e").replace("action", "acton"))
        ).policies
    }
    assert names == {"d": {"app": "web"}, "refused_b.yaml_2": {"app": "db"}, "e": {}, "refused_d.yaml_2": {}}


def test_at_first_the_addresses_of_a_refused_service_do_not_lead_past_the_mesh() -> None:
    broken = SERVICE.replace("port: 80", "port: 80, targetPort: '80'")
    [service] = inventory(first(a=broken)).services
    assert (list(map(str, service.cluster_ips or ())), service.ports) == (["10.96.0.1"], ())
    taken = first(a=broken, b=pod("web-0", "node-a", "10.96.0.1"))
    assert inventory(taken).services[0].cluster_ips == () and len(inventory(taken).pods) == 1
    assert inventory(first(a=broken.replace("clusterIP: 10.96.0.1, ", ""))).services == ()
    assert inventory(admit(first(a=WEB), files(a=WEB, b=broken))).services == ()


def test_a_copied_directory_is_told_in_no_time() -> None:
    many = "".join(pod(f"p{i}", "node-a", f"10.1.{i // 250}.{i % 250}") for i in range(2000))
    again = many.replace("node-a", "node-b")
    standing = first(a=many, b=again)
    assert len(standing.errors) == 2000 and len(inventory(standing).pods) == 2000


# -- two pods with one address


def state(text: str, status: str = "", metadata: str = "") -> str:
    return text.replace("{podIPs", f"{{{status}podIPs").replace("metadata: {", f"metadata: {{{metadata}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            state(WEB, metadata="deletionTimestamp: '2026-01-01T00:00:00Z', "),
            pod("web-1", "node-b", "10.10.0.5"),
        ),
        (state(WEB, "phase: Pending, "), pod("web-1", "node-b", "10.10.0.5")),
        (
            state(WEB, "conditions: [{type: Ready, status: 'False'}], "),
            pod("web-1", "node-b", "10.10.0.5"),
        ),
    ],
    ids=["leaving", "pending", "not-ready"],
)
def test_of_two_pods_with_one_address_the_live_one_is_served_and_it_is_said(old: str, new: str) -> None:
    for standing in (first(a=old, b=new), first(a=new, b=old), admit(first(a=old), files(a=old, b=new))):
        assert [p.meta.name for p in inventory(standing).pods] == ["web-1"] and not standing.errors
        [remark] = [r for r in standing.remarks if "web-0" in r.about]
        assert (
            "10.10.0.5 is that of Pod demo/web-1" in str(remark)
            and remark.scope
            and remark.scope.node == "node-a"
        )
        back = admit(standing, files(a=old))
        assert [p.meta.name for p in inventory(back).pods] == ["web-0"]


def test_a_finished_pod_has_no_address() -> None:
    for phase in ("Succeeded", "Failed"):
        standing = first(a=state(WEB, f"phase: {phase}, "), b=pod("web-1", "node-b", "10.10.0.5"))
        assert not standing.errors and not standing.remarks


def test_pods_on_the_host_network_share_an_address() -> None:
    host = WEB.replace("{nodeName", "{hostNetwork: true, nodeName")
    assert not first(a=host, b=host.replace("web-0", "db-0")).errors
