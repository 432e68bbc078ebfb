"""What runs in the cluster: servers that say who asked them, clients that wait to be used, and objects of the mesh."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
IMAGE = "localhost/ztun:0.1.0"
PYTHON = "/opt/ztun/bin/python"
PORT = 8080
SERVER = """
import os, socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            said = f"{os.environ['POD']} {self.client_address[0]} ".encode() + line
            if line.startswith(b"GET "):
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n"
                    b"Content-Length: %d\\r\\n\\r\\n%s" % (len(said), said))
                return
            self.wfile.write(said)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128
Server(("0.0.0.0", 8080), Handler).serve_forever()
"""
CLIENT = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"
EAGER = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while True:
    try:
        with socket.create_connection((sys.argv[1], 8080), 30) as sock:
            sock.sendall(b"the-marker\\n")
            said = sock.recv(100)
            if said:
                open("/tmp/asked", "w").close()
                break
    except OSError:
        pass
signal.pause()
"""
ASKER = """
import socket, sys, time
for attempt in range(60):
    try:
        with socket.create_connection((sys.argv[1], 80), 10) as sock:
            sock.sendall(b"job\\n")
            said = sock.recv(100)
            if said:
                sys.exit(0)
    except OSError as error:
        print(error, flush=True)
    time.sleep(0.5)
sys.exit(1)
"""


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def account(name: str, namespace: str = "demo") -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def template(
    app: str, node: str, code: str, *arguments: str, labels: Object | None = None, user: str = "", **spec: Any
) -> Object:
    container: Object = {
        "name": "app",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": [PYTHON, "-c", code, *arguments],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    if code == SERVER and not spec.get("hostNetwork"):
        container["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
        container["livenessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 2, "failureThreshold": 10}
        container["startupProbe"] = {
            "exec": {"command": [PYTHON, "-c", ""]},
            "periodSeconds": 2,
            "timeoutSeconds": 10,
        }
    if code == EAGER:
        command = [PYTHON, "-c", "import os, sys; sys.exit(not os.path.exists('/tmp/asked'))"]
        container["readinessProbe"] = {"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 10}
    return {
        "metadata": {"labels": {"app": app, **(labels or {})}},
        "spec": {
            "serviceAccountName": user or app,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            **spec,
        },
    }


def probed(node: str) -> Object:
    """A server whose kubelet asks every second, in each of the three ways; one answer that is missing restarts it."""
    made = template("probed", node, SERVER)
    every = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10}
    ways: dict[str, Object] = {
        "http": {"httpGet": {"path": "/", "port": PORT}},
        "tcp": {"tcpSocket": {"port": PORT}},
        "exec": {"exec": {"command": ["true"]}},
    }
    [server] = made["spec"]["containers"]
    del server["startupProbe"]
    waiting = {key: server[key] for key in ("image", "imagePullPolicy")} | {"command": [PYTHON, "-c", CLIENT]}
    server |= {"name": "http", "livenessProbe": ways["http"] | every | {"initialDelaySeconds": 10}}
    # The server answers for its neighbours as well: a probe by TCP or HTTP is of the pod's address.
    made["spec"]["containers"] += [
        waiting | {"name": way, "livenessProbe": ways[way] | every | {"initialDelaySeconds": 10}}
        for way in ("tcp", "exec")
    ]
    # As much as an agent: without a request it has a fiftieth of what that gets, and an agent that starts on a busy
    # machine keeps it from answering, captured or not.
    for container in made["spec"]["containers"]:
        container["resources"] = {"requests": {"cpu": "100m"}}
    return made


def deployment(
    app: str, node: str, code: str, *arguments: str, replicas: int = 1, namespace: str = "demo", **more: Any
) -> Object:
    return deployed(template(app, node, code, *arguments, **more), replicas, namespace)


def deployed(made: Object, replicas: int = 1, namespace: str = "demo") -> Object:
    """A Deployment of a template."""
    labels = made["metadata"]["labels"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": labels["app"], "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": labels["app"]}},
            "template": made,
        },
    }


def stateful_set(app: str, node: str, **more: Any) -> Object:
    made = deployed(template(app, node, SERVER, **more))
    made["spec"]["serviceName"] = app
    return made | {"kind": "StatefulSet"}


def budget(app: str) -> Object:
    """One pod at least, whoever drains nodes."""
    return {
        "apiVersion": "policy/v1beta1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": app, "namespace": "demo"},
        "spec": {"minAvailable": 1, **selecting(app)},
    }


def job(name: str, node: str, host: str) -> Object:
    made = template(name, node, ASKER, host, user="client", restartPolicy="Never")
    [container] = made["spec"]["containers"]
    made["spec"]["initContainers"] = [container | {"name": "first"}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"backoffLimit": 0, "template": made},
    }


def service(app: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app, "namespace": "demo"},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def policy(action: str, app: str, rules: list[Any], name: str = "policy") -> Object:
    """`app`: whom it protects; empty: everybody in the namespace."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"action": action, "rules": rules, **selecting(app)},
    }


def strict(app: str = "", name: str = "strict") -> Object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"mtls": {"mode": "STRICT"}, **selecting(app)},
    }


def selecting(app: str) -> Object:
    return {"selector": {"matchLabels": {"app": app}}} if app else {}


def by_account(name: str) -> list[Any]:
    """A rule of a policy: who comes as this account."""
    return [{"from": [{"source": {"principals": [f"cluster.local/ns/demo/sa/{name}"]}}]}]
