"""A real kube-apiserver with its etcd, as processes of a test: the same face as the fake one."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.kubernetes.access import Access, AccessError
from tests.support.certs import Issued, TestCA, pem
from tests.support.kube import Raw

READY_S = 180.0
ADMIN = "admin-token"
TOKEN_S, LEEWAY_S = 10, 60
"""The leeway is what the server gives clocks that differ; whom it knew it remembers for ten seconds more."""


class RealServer:
    """kube-apiserver out of a directory, etcd too where it is there; both end with the block."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries, self.directory = binaries, directory
        self.port, self._etcd_port, self._peer_port = _free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        tokens = directory / "tokens.csv"
        tokens.write_text(
            f'{ADMIN},admin,1,"system:masters"\nagent-token,agent,2,"system:masters"\nno-rights,nobody,3\n'
        )
        key = directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self.ca_file = directory / "certs" / "apiserver.crt"
        self._clients = TestCA()
        (directory / "clients.crt").write_bytes(self._clients.root_pem)

    def __enter__(self) -> RealServer:
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_all(self) -> None:
        self._run(
            "etcd",
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            "--log-level=error",
        )
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._kill("etcd")

    def start(self) -> None:
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self.directory}/certs",
            f"--token-auth-file={self.directory}/tokens.csv",
            f"--client-ca-file={self.directory}/clients.crt",
            f"--service-account-key-file={self.directory}/sa.key",
            f"--service-account-signing-key-file={self.directory}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
            "--service-cluster-ip-range=10.96.0.0/16",
        )
        ends_s = time.monotonic() + READY_S
        while not self._is_ready():
            log = (self.directory / "kube-apiserver.log").read_text()[-2000:]
            assert self._processes["kube-apiserver"].poll() is None, log
            assert time.monotonic() < ends_s, f"the API server did not get ready: {log}"
            time.sleep(0.1)

    def stop(self) -> None:
        # Asked nicely it would go on serving watches for a minute.
        self._kill("kube-apiserver")

    def ask(self, method: str, path: str, body: Raw | None = None, kind: str = "application/json") -> Raw:
        context = Access("127.0.0.1", self.port, str(self.ca_file)).context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": kind}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            raw = json.loads(answer.read() or b"{}")
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise AssertionError(f"{method} {path}: {answer.status} {raw}")
        return raw

    def token_for(self, lasts_s: float) -> str:
        """Of a service account that may everything. The server issues none for so short: its own key signs it anew."""
        place, name = "/api/v1/namespaces/default/serviceaccounts", f"expires-{time.monotonic_ns()}"
        self.ask("POST", place, {"metadata": {"name": name}})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        subject = {"kind": "ServiceAccount", "namespace": "default", "name": name}
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
        self.ask("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        made = self.ask("POST", f"{place}/{name}/token", {"spec": {"expirationSeconds": 600}})
        head, claims, _ = made["status"]["token"].split(".")
        said = json.loads(base64.urlsafe_b64decode(claims + "=="))
        said["exp"] = int(time.time() + lasts_s - LEEWAY_S)
        said["nbf"] = said["iat"] = said["exp"] - 600
        text = f"{head}.{base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b'=').decode()}"
        key = serialization.load_pem_private_key((self.directory / "sa.key").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        signed = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"

    def shown_until(self, end: datetime) -> Raw:
        """The user of a kubeconfig who shows a certificate, and may everything."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "agent"),
        ]
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(name))
            .issuer_name(self._clients.root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=1))
            .not_valid_after(end)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .sign(self._clients._key, hashes.SHA256())
        )
        files = {"client-certificate-data": pem(leaf), "client-key-data": Issued(key, [leaf]).key_pem}
        return {name: base64.b64encode(content).decode() for name, content in files.items()}

    def kubeconfig(self, user: Raw | None = None) -> Path:
        """A file by which kubectl and its like are admin here. `user`: with which credentials."""
        path = self.directory / "kubeconfig"
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.ca_file)}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or {"token": ADMIN}}],
        }
        path.write_text(json.dumps(made))
        return path

    def _is_ready(self) -> bool:
        try:
            self.ask("GET", "/api/v1/namespaces/default")
        except (OSError, AssertionError, AccessError, http.client.HTTPException, ValueError):
            return False
        return True

    def _run(self, name: str, *options: str) -> None:
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._program(name), *options],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.environ["PATH"]},
            )

    def _program(self, name: str) -> Path:
        """Of the directory, or of the machine: etcd is a package of its own."""
        path = self._binaries / name
        installed = shutil.which(name)
        return path if path.exists() or installed is None else Path(installed)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()


class RealApi:
    """One test's use of the server; what the test made is deleted at its end."""

    def __init__(self, server: RealServer, directory: Path) -> None:
        self._server = server
        self.token_file = directory / "token"
        self.token_file.write_text("agent-token")

    def __enter__(self) -> RealApi:
        self._clear()
        self._server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "demo"}})
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    @property
    def access(self) -> Access:
        return Access(
            "127.0.0.1",
            self._server.port,
            str(self._server.ca_file),
            self.token_file,
        )

    def create(self, raw: Raw) -> Raw:
        kind = {"Pod": "pods", "Namespace": "namespaces"}[raw["kind"]]
        made = self._server.ask("POST", _path(kind, raw["metadata"].get("namespace", "")), raw)
        return self._status(made, raw) if raw.get("status") else made

    def change(self, kind: str, name: str, namespace: str = "", **parts: Raw) -> Raw:
        path = f"{_path(kind, namespace)}/{name}"
        changed: Raw = {}
        if "status" in parts:
            changed = self._patch(f"{path}/status", {"status": parts.pop("status")})
        return self._patch(path, parts) if parts else changed

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        self._server.ask("DELETE", f"{_path(kind, namespace)}/{name}?gracePeriodSeconds=0")

    def get(self, kind: str, name: str, namespace: str = "") -> Raw:
        return self._server.ask("GET", f"{_path(kind, namespace)}/{name}")

    def all(self, kind: str) -> list[Raw]:
        return list(self._server.ask("GET", _path(kind, "demo"))["items"])

    def forget_versions(self) -> None:
        """A server that starts knows no version before its start."""
        self._server.stop()
        self._server.start()

    def token_that_expires(self) -> str:
        return self._server.token_for(TOKEN_S)

    def let_it_expire(self) -> None:
        """It does, by the server's clock."""

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def _status(self, made: Raw, raw: Raw) -> Raw:
        meta = made["metadata"]
        path = f"{_path('pods', meta['namespace'])}/{meta['name']}/status"
        return self._patch(path, {"status": raw["status"]}) if raw["kind"] == "Pod" else made

    def _patch(self, path: str, body: Raw) -> Raw:
        return self._server.ask("PATCH", path, body, "application/merge-patch+json")

    def _clear(self) -> None:
        for pod in self._server.ask("GET", "/api/v1/pods")["items"]:
            self.delete("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])
        # Nobody finishes namespaces here: no controller manager runs.
        for each in self._server.ask("GET", "/api/v1/namespaces")["items"]:
            name = each["metadata"]["name"]
            if name not in ("default", "kube-system", "kube-public", "kube-node-lease"):
                if each["metadata"].get("deletionTimestamp") is None:
                    self._server.ask("DELETE", f"/api/v1/namespaces/{name}")
                raw = {
                    "kind": "Namespace",
                    "apiVersion": "v1",
                    "metadata": {"name": name},
                    "spec": {"finalizers": []},
                }
                self._server.ask("PUT", f"/api/v1/namespaces/{name}/finalize", raw)


def _path(kind: str, namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{kind}" if namespace else f"/api/v1/{kind}"


def _free_ports(count: int) -> list[int]:
    socks: list[Any] = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports
