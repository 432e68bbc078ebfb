"""Manifests as people write them, and what the reader makes of them."""

from __future__ import annotations

from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import Pod, Service
from tests.support.controlplane import deny

BARE = """apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
"""


SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


def one(text: str, stored: bool = False) -> Pod | Service:
    manifest = parse("f.yaml", text, stored)
    assert not manifest.refused, [str(error) for error in manifest.refused[0].errors]
    [made] = manifest.objects
    return made


def refused(text: str, stored: bool = False) -> list[str]:
    """Every error of a text, as people read it."""
    return [str(error) for r in parse("f.yaml", text, stored).refused for error in r.errors]


def policy(rules: str) -> str:
    return deny("p", rules=rules).replace("---\n", "")


def peer(spec: str, metadata: str = "{name: p, namespace: demo}", root: str = "") -> str:
    return (
        f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {metadata}\n"
        f"spec: {spec}\n{root}"
    )


MESH = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n"


def mesh(*lines: str) -> str:
    return MESH + "".join(f"    {line}\n" for line in lines)
