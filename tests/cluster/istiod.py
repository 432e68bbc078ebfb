"""The chart under an istiod that is there: a real one, on the machine of the control plane.

Each fact returns its line, or raises.
"""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import yaml
from cryptography import x509

from redirect.netns import entered
from tests.cluster import apps, mesh, newer_api, policy
from tests.cluster.api import SERVER, TOKEN
from tests.cluster.charts import CHART, run_helm, taken_off_by_helm
from tests.cluster.kubernetes import KUBECONFIG, wait
from tests.cluster.operation import nothing_is_left, rolling_update, runs_in_clear, taken_off
from tests.cluster.stage import LABEL, ROOT, Stage, are_ready, rendered
from tests.cluster.traffic import Load, refused

NAMESPACE, PORT = "istio-system", 15012
NAME = f"istiod.{NAMESPACE}.svc"
API_PORT, HTTP_PORT = 8001, 8080
ENVIRONMENT = {
    "PILOT_ENABLE_AMBIENT": "true",
    "CA_TRUSTED_NODE_ACCOUNTS": f"{NAMESPACE}/ztunnel",
    "CLUSTER_ID": "Kubernetes",
    "POD_NAMESPACE": NAMESPACE,
    "POD_NAME": "istiod-0",
    "REVISION": "default",
    "HOME": "/tmp",
    # Nothing is injected here, and no webhook is told.
    "INJECT_ENABLED": "false",
    "VALIDATION_WEBHOOK_CONFIG_NAME": "",
    "INJECTION_WEBHOOK_CONFIG_NAME": "",
    "PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "false",
}
"""As Istio's chart sets them for ambient, but for what needs a pod of its own."""


def an_istiod_that_is_there(stage: Stage) -> str:
    cluster = stage.cluster
    cluster.apply(apps.namespace(NAMESPACE), *service())
    # Istio's base chart brings the kinds of policy; these are the same two.
    kinds = (ROOT / "deploy" / "kubernetes" / "crds.yaml").read_text()
    cluster.apply(*(each for each in yaml.safe_load_all(kinds) if each))
    control, at = cluster.control, cluster.directory
    control.start(
        "newer-api", "/usr/bin/python3", newer_api.__file__, API_PORT, f"{SERVER}:6443", at / "ca.crt", TOKEN
    )
    reached = KUBECONFIG.format(server=SERVER, ca=at / "ca.crt", token=TOKEN)
    reached = reached.replace(
        f'"https://{SERVER}:6443", certificate-authority: "{at}/ca.crt"', f'"http://127.0.0.1:{API_PORT}"'
    )
    control.write(str(at / "istiod.kubeconfig"), reached)
    took_s = started(stage)
    wait("its root is in the API", lambda: root_of(stage), 60)
    address = stage.cluster_ip("istiod", NAMESPACE)
    # There is no DNS here: a pod with its node's network has the names that the node has.
    for node in cluster.nodes.values():
        node.write("/etc/hosts", f"127.0.0.1 localhost\n{address} {NAME}\n")
    return f"an istiod beside the cluster is ready after {took_s:.0f} s"


def installed_under_istiod(stage: Stage) -> str:
    cluster = stage.cluster
    stage.namespace, stage.plane_pods = NAMESPACE, 0
    cluster.kubectl("label", "namespace", "demo", f"{LABEL}=ambient")
    began_s = time.monotonic()
    run_helm(stage, "install", "ztun", str(CHART), "--set", f"istiod.address={NAME}:{PORT}")
    wait("two agents", lambda: are_ready(stage))
    wait("the pods are enrolled", lambda: stage.enrolled("client", "server", "near", "stranger"))
    took_s = time.monotonic() - began_s
    kinds = "deployments,services,secrets,serviceaccounts,clusterroles,clusterrolebindings"
    objects = cluster.kubectl("get", kinds, "-A", "-o", "name")
    assert "ztun-control-plane" not in objects and "ztun-ca" not in objects, objects
    manifest = run_helm(stage, "get", "manifest", "ztun")
    assert "CustomResourceDefinition" not in manifest, "the chart has taken Istio's kinds over"
    return (
        f"helm install with istiod.address: all pods of the labelled namespace enrolled after {took_s:.0f} s, "
        "no control plane of ztun is installed"
    )


def identities_are_its(stage: Stage) -> str:
    """Who a pod says it is, to somebody who asks at its tunnel port."""
    root = x509.load_pem_x509_certificate(root_of(stage).encode())
    for app in ("server", "near"):
        leaf = certificate_of(stage, stage.ip(app))
        leaf.verify_directly_issued_by(root)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        said = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert said == [f"spiffe://cluster.local/ns/demo/sa/{app}"], said
    return f"pods of both nodes have certificates of its CA ({root.subject.rfc4514_string()}), for their accounts"


def istiod_goes_and_comes(stage: Stage) -> str:
    """What is written while it is away counts when it is back."""
    client, server = stage.uid("client"), stage.ip("server")
    stopped(stage)
    with Load(client, server) as load:
        wait("forty requests without it", lambda: load.asked > 40, 60)
    assert not load.failed and not load.resets, f"{load.failed} of {load.asked} failed: {load.reasons}"
    stage.cluster.apply(apps.policy("DENY", "server", apps.by_account("client")))
    started(stage)
    back_s = wait("the policy is in force", lambda: refused(client, server), 60)
    policy.is_let_in(stage, "stranger", server)
    stage.cluster.kubectl("-n", "demo", "delete", "authorizationpolicy", "policy")
    wait("it is gone", lambda: not refused(client, server), 30)
    return (
        f"istiod away: {load.asked} new requests, 0 failed; a policy of meanwhile is in force {back_s:.1f} s "
        "after it is ready again"
    )


def removed_under_istiod(stage: Stage) -> str:
    cluster = stage.cluster
    taken_off_by_helm(stage)
    cluster.kubectl("-n", NAMESPACE, "delete", "daemonset", "ztun-uninstall")
    wait("its pods are gone", lambda: not cluster.pods(NAMESPACE), 60)
    nothing_is_left(stage, kinds=("clusterroles", "clusterrolebindings"))
    runs_in_clear(stage)
    assert answers(stage), "istiod went along"
    return "helm uninstall: pods run on in clear, istiod and its kinds are left, and nothing of ztun"


def by_the_manifests(stage: Stage) -> str:
    cluster, tree = stage.cluster, "deploy/kubernetes/istiod"
    cluster.kubectl("label", "namespace", "demo", f"{LABEL}=ambient")
    cluster.apply(*rendered(stage, tree))
    wait("two agents", lambda: are_ready(stage))
    wait("the pods are enrolled", lambda: stage.enrolled("client", "server", "near", "stranger"))
    identities_are_its(stage)
    mesh.traffic_is_mutual_tls(stage)
    taken_off(stage, tree)
    wait("its pods are gone", lambda: not cluster.pods(NAMESPACE), 60)
    nothing_is_left(stage, kinds=("clusterroles", "clusterrolebindings"))
    runs_in_clear(stage)
    assert cluster.get("namespace", NAMESPACE)["status"]["phase"] == "Active", "Istio's namespace went along"
    return f"the same by {tree}: installed, mutual TLS by certificates of its CA, and taken off again"


def service() -> list[apps.Object]:
    """A name in the cluster for a process beside it."""
    meta = {"name": "istiod", "namespace": NAMESPACE}
    port = {"name": "grpc-xds", "port": PORT}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [port]}},
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": meta,
            "subsets": [{"addresses": [{"ip": SERVER}], "ports": [port]}],
        },
    ]


def started(stage: Stage) -> float:
    """Seconds until it was ready."""
    control, at = stage.cluster.control, stage.cluster.directory
    control.start(
        "istiod", "env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        stage.istiod, "discovery",
        f"--kubeconfig={at}/istiod.kubeconfig", "--domain=cluster.local", f"--httpAddr=127.0.0.1:{HTTP_PORT}",
        "--grpcAddr=127.0.0.1:15010", f"--secureGRPCAddr=0.0.0.0:{PORT}", "--monitoringAddr=127.0.0.1:15014",
        "--httpsAddr=127.0.0.1:15017",
    )  # fmt: skip
    return wait("istiod", lambda: answers(stage), 120)


def stopped(stage: Stage) -> None:
    stage.cluster.control.kill("istiod")
    wait("it is gone", lambda: not answers(stage), 30)


def answers(stage: Stage) -> bool:
    asked = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{HTTP_PORT}/ready")
    return stage.cluster.control.run(*asked, check=False) == "200"


def root_of(stage: Stage) -> str:
    """The certificate of its CA; empty: it has written none yet."""
    return stage.cluster.kubectl(
        "-n", NAMESPACE, "get", "configmap", "istio-ca-root-cert", "--ignore-not-found",
        "-o", r"jsonpath={.data.root-cert\.pem}",
    )  # fmt: skip


def certificate_of(stage: Stage, address: str) -> x509.Certificate:
    """What a pod shows at its tunnel port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with entered(Path(f"/proc/{stage.cluster.control.pid}/ns/net")):
        sock = socket.create_connection((address, 15008), 20)
    with sock, context.wrap_socket(sock) as tls:
        shown = tls.getpeercert(binary_form=True)
    assert shown, "it shows no certificate"
    return x509.load_der_x509_certificate(shown)


FACTS = (
    an_istiod_that_is_there,
    installed_under_istiod,
    mesh.traffic_is_mutual_tls,
    identities_are_its,
    mesh.services_answer,
    mesh.new_pods_are_enrolled,
    mesh.first_packets,
    policy.policy_is_enforced,
    policy.identity_is_the_service_account,
    policy.strict_holds_and_probes_pass,
    istiod_goes_and_comes,
    rolling_update,
    removed_under_istiod,
    by_the_manifests,
)
