"""Who may speak with whom: policies, identities, what the host drops. Each fact returns its line, or raises."""

from __future__ import annotations

import time

from tests.cluster import apps
from tests.cluster.kubernetes import annotation, wait
from tests.cluster.machine import Machine
from tests.cluster.stage import LABEL, Stage
from tests.cluster.traffic import PORT, passes, refused

OPT_OUT = f"{LABEL}=none"


def strict_holds_and_probes_pass(stage: Stage) -> str:
    restarts = stage.restarts()
    out, server, probed = stage.uid("out"), stage.ip("server"), stage.ip("probed")
    assert passes(out, server), "plaintext is refused before it should be"
    stage.cluster.apply(apps.strict())
    took_s = wait("plaintext is refused", lambda: refused(out, server), 30)
    stage.ask("client", "server")
    # This one stays: whatever comes, its kubelet has to be answered.
    stage.cluster.apply(apps.strict("probed", "probed"))
    time.sleep(5)  # five periods of each probe
    assert stage.ready_pods("server", 2) and stage.restarts() == restarts, "a probe failed"
    stage.cluster.kubectl("-n", "demo", "delete", "peerauthentication", "strict")
    wait("plaintext is let in", lambda: not refused(out, server), 30)
    assert refused(out, probed), "it is let in where it should not be"
    return (
        f"STRICT: plaintext of others refused after {took_s:.1f} s; probes by HTTP, TCP and exec stay green"
    )


def of_the_node_only_the_kubelet(stage: Stage) -> str:
    """Agents were told so (`ZTUN_HOST_TRAFFIC`); this pod is under STRICT for good."""
    node, address, unanswered = stage.cluster.nodes["node-2"], stage.ip("probed"), stage.unanswered()
    before = counted(node)
    question = ("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}:{PORT}/")
    assert node.run(*question, check=False).strip() == "000", "who is no kubelet is answered"
    wait("probes come in", lambda: counted(node)["HOST_SYN"] > before["HOST_SYN"] + 4, 60)
    assert counted(node)["HOST_SYN_TO_PROXY"] > before["HOST_SYN_TO_PROXY"], "it is not counted"
    green = stage.probed(unanswered)
    return f"--host-traffic=kubelet under STRICT: others of the node are refused, and counted; {green}"


def counted(node: Machine) -> dict[str, float]:
    """What came to the pods of a node from itself: past the proxy (`HOST_SYN`), and led to it."""
    figures = dict.fromkeys(("HOST_SYN", "HOST_SYN_TO_PROXY"), 0.0)
    for line in node.run("curl", "-s", "http://127.0.0.1:15020/metrics").splitlines():
        for name in figures:
            if line.startswith("ztun_redirect_packets_total{") and f'"{name}"' in line:
                figures[name] += float(line.rpartition(" ")[2])
    return figures


def probes_pass_while_taken_in(stage: Stage) -> str:
    """The label goes and comes; each container of this pod is ended at the first probe that is not answered."""
    unanswered = stage.unanswered()
    for _ in range(3):
        stage.cluster.kubectl(
            "-n", "demo", "label", "pod", str(stage.pod("probed")["metadata"]["name"]), OPT_OUT
        )
        wait("it is let go", lambda: not annotation(stage.pod("probed")), 30)
        stage.cluster.kubectl(
            "-n", "demo", "label", "pod", str(stage.pod("probed")["metadata"]["name"]), f"{LABEL}-"
        )
        wait("it is taken in", lambda: stage.enrolled("probed"), 30)
    wait("STRICT holds", lambda: refused(stage.uid("out"), stage.ip("probed")), 30)
    return f"a pod is let go and taken in thrice: {stage.probed(unanswered)}"


def policy_is_enforced(stage: Stage) -> str:
    """On both nodes: one who is denied goes to a pod of its own and to one of the other."""
    client = stage.uid("client")
    places = {"node-1": stage.ip("near"), "node-2": stage.ip("server")}
    stage.cluster.apply(apps.policy("DENY", "", apps.by_account("client")))
    took_s = dict.fromkeys(places, 0.0)
    began_s = time.monotonic()
    for node, address in places.items():
        wait(f"it is in force on {node}", lambda address=address: refused(client, address), 30)  # type: ignore[misc]
        took_s[node] = time.monotonic() - began_s
    is_let_in(stage, "stranger", places["node-2"])
    stage.cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    wait("it is gone", lambda: not any(refused(client, address) for address in places.values()), 30)
    figures = ", ".join(f"{took_s[node]:.2f} s on {node}" for node in places)
    return f"a policy by kubectl apply is in force after {figures}, and gone with kubectl delete"


def identity_is_the_service_account(stage: Stage) -> str:
    stranger, server = stage.uid("stranger"), stage.ip("server")
    stage.cluster.apply(apps.policy("ALLOW", "server", apps.by_account("client")))
    wait("strangers are denied", lambda: refused(stranger, server), 30)
    is_let_in(stage, "client", server)
    stage.cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    wait("it is gone", lambda: not refused(stranger, server), 30)
    return "ALLOW of account `client`: it passes, account `stranger` does not"


def is_let_in(stage: Stage, app: str, address: str) -> None:
    """Who is not meant by a new policy. An istiod names it to its pods before it sends it: that denies for a moment."""
    client = stage.uid(app)
    if stage.is_under_istiod:
        wait(f"{app} is let in", lambda: passes(client, address), 30)
    assert passes(client, address), f"{app} is denied, too"


def network_policy_holds(stage: Stage) -> str:
    node = stage.cluster.nodes["node-1"]
    stage.ask("client", "server")
    pair = f"ip saddr {stage.ip('client')} ip daddr {stage.ip('server')}"
    rule = (
        f"table ip guard {{\n chain forward {{\n type filter hook forward priority 0\n {pair} drop\n}}\n}}\n"
    )
    node.run("nft", "-f", "-", text=rule)
    try:
        assert refused(stage.uid("client"), stage.ip("server")), "it passes"
        assert passes(stage.uid("stranger"), stage.ip("server")), "others are dropped, too"
    finally:
        node.run("nft", "delete", "table", "ip", "guard")
    wait("it passes again", lambda: not refused(stage.uid("client"), stage.ip("server"), patience_s=5), 60)
    return "what a NetworkPolicy of the host drops between two pods is dropped, and nothing else"
