"""A Kubernetes on machines: the control plane on the first, a containerd and a kubelet on each other."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.cluster.api import SERVER, TOKEN, Api
from tests.cluster.images import PAUSE, write_pause
from tests.cluster.machine import CGROUPS, Machine

PATIENCE_S = 240.0
ETCD = "http://127.0.0.1:2379"
CONTAINERD = """\
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  disable_tcp_service = true
  restrict_oom_score_adj = true
"""
NETWORK = """\
{{"cniVersion": "1.0.0", "name": "pods", "plugins": [{{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local",
 "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}
"""
KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failSwapOn: false
resolvConf: ""
evictionHard: {{memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%"}}
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
oomScoreAdj: 0
nodeStatusUpdateFrequency: 2s
"""
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://{server}:6443", certificate-authority: "{ca}"}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


class Kubernetes:
    """`control`: the machine with the API; `nodes`: those with kubelets, by the name of the node."""

    def __init__(
        self, directory: Path, binaries: Path, images: list[Path], control: Machine, nodes: list[Machine]
    ) -> None:
        self.directory = directory / "kubernetes"
        self.directory.mkdir()
        self.binaries, self.images = binaries, images
        self.control, self.nodes = control, {node.name: node for node in nodes}
        self.kubeconfig = self.directory / "kubeconfig"
        self.api = Api(control, self.directory / "ca.crt")
        # Before any machine boots: its root is a copy of this one's from then on.
        make_certificates(self.directory)
        (self.directory / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self.kubeconfig.write_text(
            KUBECONFIG.format(server=SERVER, ca=self.directory / "ca.crt", token=TOKEN)
        )

    def start_control(self) -> None:
        at, bin_ = self.directory, self.binaries
        self.control.start(
            "etcd", "etcd", f"--data-dir={at}/etcd", f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}", "--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync",
            "--log-level=error",
        )  # fmt: skip
        self.start_api_server()
        more = {
            "kube-controller-manager": (
                f"--service-account-private-key-file={at}/sa.key",
                f"--root-ca-file={at}/ca.crt",
                "--node-monitor-grace-period=20s",
            ),
            "kube-scheduler": (),
        }
        for name, flags in more.items():
            self.control.start(
                name, bin_ / name, f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
                "--bind-address=127.0.0.1", "--port=0", *flags,
            )  # fmt: skip

    def start_api_server(self) -> None:
        """Returns when it is ready; again after a `stop_api_server`."""
        at = self.directory
        self.control.start(
            "apiserver", self.binaries / "kube-apiserver", f"--etcd-servers={ETCD}", "--secure-port=6443",
            f"--advertise-address={SERVER}", f"--tls-cert-file={at}/server.crt",
            f"--tls-private-key-file={at}/server.key", f"--cert-dir={at}",
            f"--service-account-key-file={at}/sa.key", f"--service-account-signing-key-file={at}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc", f"--token-auth-file={at}/tokens.csv",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        wait("the API server", lambda: self.api_server_says() == "ok")

    def stop_api_server(self) -> None:
        """At once, with everybody who watches connected."""
        self.control.kill("apiserver")
        wait("the API server is gone", lambda: not self.api_server_says())

    def api_server_says(self) -> str:
        """Whether it is ready; empty: there is none."""
        question = ("curl", "-sk", "-H", f"Authorization: Bearer {TOKEN}", "https://127.0.0.1:6443/readyz")
        return self.control.run(*question, check=False)

    def number(self, name: str) -> int:
        """Which of the nodes it is: the first is 1."""
        return list(self.nodes).index(name) + 1

    def start_node(self, name: str) -> None:
        """A containerd, its images and a kubelet; again after a boot."""
        node, number = self.nodes[name], self.number(name)
        node.write("/etc/containerd/ztun.toml", CONTAINERD.format(pause=PAUSE))
        node.write("/etc/cni/net.d/10-pods.conflist", NETWORK.format(subnet=f"10.89.{number}.0/24"))
        node.write("/etc/kubelet.yaml", KUBELET.format(cgroup=node.cgroup))
        # Each knows the way to the pods of the others.
        for other in range(1, len(self.nodes) + 1):
            if other != number:
                node.run("ip", "route", "add", f"10.89.{other}.0/24", "via", f"192.168.77.{10 + other}")
        self.control.run("ip", "route", "replace", f"10.89.{number}.0/24", "via", f"192.168.77.{10 + number}")
        node.run("sh", "-c", "cp -n /usr/lib/cni/* /opt/cni/bin/")
        self._start_containerd(node)
        known = node.run("ctr", "-n", "k8s.io", "image", "ls", "-q")
        for image in self.images:
            if image.stem not in known:
                node.run("ctr", "-n", "k8s.io", "image", "import", image)
        self._start_kubelet(node)

    def restart_containerd(self, name: str) -> None:
        """Its pods live on."""
        self.nodes[name].kill("containerd")
        self._start_containerd(self.nodes[name])

    def restart_kubelet(self, name: str) -> None:
        self.nodes[name].kill("kubelet")
        self._start_kubelet(self.nodes[name])

    def _start_containerd(self, node: Machine) -> None:
        node.start("containerd", "containerd", "-c", "/etc/containerd/ztun.toml")
        wait("containerd", lambda: "Server" in node.run("ctr", "version", check=False))

    def _start_kubelet(self, node: Machine) -> None:
        address = f"192.168.77.{10 + self.number(node.name)}"
        node.start(
            "kubelet", *in_group(f"{node.cgroup}/kubelet"), self.binaries / "kubelet",
            "--config=/etc/kubelet.yaml", f"--kubeconfig={self.kubeconfig}",
            f"--hostname-override={node.name}", f"--node-ip={address}", "--container-runtime=remote",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            f"--pod-infra-container-image={PAUSE}", "--runtime-cgroups=/", "--kubelet-cgroups=/",
        )  # fmt: skip

    # -- the API

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        return self.control.run(*command, text=text, check=check)

    def apply(self, *documents: dict[str, Any]) -> None:
        self.kubectl(
            "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        )

    def get(self, *what: str) -> dict[str, Any]:
        found = json.loads(self.kubectl("get", *what, "-o", "json"))
        assert isinstance(found, dict)
        return found

    def log(self, node: str, pod: str) -> str:
        """What a pod of a node has said; empty: nothing yet."""
        found = Path(f"/proc/{self.nodes[node].pid}/root/var/log/pods").glob(f"*_{pod}_*/*/*.log")
        return "".join(each.read_text(errors="replace") for each in sorted(found))

    def pods(self, namespace: str, app: str = "") -> list[dict[str, Any]]:
        """Those that are not being deleted."""
        selector = {"labelSelector": f"app={app}"} if app else {}
        items = self.api.items(f"/api/v1/namespaces/{namespace}/pods", **selector)
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def in_group(name: str) -> tuple[str, ...]:
    """In front of a command: in a control group of version 2 of its own, as a service manager starts it."""
    version_2 = CGROUPS / "unified" if (CGROUPS / "unified").is_dir() else CGROUPS
    start = 'mkdir -p "$0" && echo $$ >"$0/cgroup.procs" && exec "$@"'
    return ("sh", "-c", start, str(version_2 / name))


def annotation(pod: dict[str, Any]) -> str:
    return str((pod["metadata"].get("annotations") or {}).get("ambient.istio.io/redirection", ""))


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def wait(what: str, holds: Callable[[], object], patience_s: float = PATIENCE_S) -> float:
    """Seconds until it held. Raises RuntimeError when it does not for so long."""
    began_s = time.monotonic()
    while not holds():
        if time.monotonic() - began_s > patience_s:
            raise RuntimeError(f"not within {patience_s:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began_s


def make_certificates(directory: Path) -> None:
    """A CA, the API server's certificate by it, and a key for tokens of service accounts."""
    now, ca_key, key = (
        datetime.now(UTC),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    ca_name, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("ca", "kube-apiserver")
    )
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    addresses = [ip_address(each) for each in (SERVER, "127.0.0.1", "10.96.0.1")]
    alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, names), *map(x509.IPAddress, addresses)])

    def made(
        subject: x509.Name, public: Any, extensions: list[tuple[x509.ExtensionType, bool]]
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(ca_key, hashes.SHA256())

    def private(of: Any) -> bytes:
        return of.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    ca = made(ca_name, ca_key.public_key(), [(x509.BasicConstraints(True, None), True)])
    leaf = made(name, key.public_key(), [(alternatives, False)])
    for file, content in (
        ("ca.crt", ca.public_bytes(serialization.Encoding.PEM)),
        ("server.crt", leaf.public_bytes(serialization.Encoding.PEM)),
        ("server.key", private(key)),
        ("sa.key", private(rsa.generate_private_key(65537, 2048))),
    ):
        (directory / file).write_bytes(content)


def images(work: Path, image: Path) -> list[Path]:
    """Archives by the names that tell whether a node has them."""
    write_pause(work / "pause.tar")
    ours = work / "ztun.tar"
    if image.resolve() != ours.resolve():
        shutil.copyfile(image, ours)
    return [work / "pause.tar", ours]
