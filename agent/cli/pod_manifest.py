"""`ztun pod-manifest`: the Pod of a namespace, process or interface as YAML, so that nobody types addresses."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import click
import yaml

from agent.cli.enroll import check_where, split_pod, where_options
from redirect.errors import RedirectError
from redirect.locate import locate


@click.command("pod-manifest")
@click.argument("pod", metavar="NAMESPACE/NAME")
@where_options
@click.option("--node", help="Name of this node.  [default: the host name]")
@click.option("--service-account", default="default", show_default=True, help="Who the pod is in the mesh.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
def pod_manifest(
    pod: str,
    netns: str | None,
    pid: int | None,
    ifname: str | None,
    node: str | None,
    service_account: str,
    labels: tuple[str, ...],
) -> None:
    """Print the manifest of a pod that runs here.

    Its addresses are read where it runs. Put the output into the control plane's directory of manifests; then
    `ztun enroll` can capture the pod.
    """
    namespace, name = split_pod(pod)
    check_where(netns, pid, ifname)
    try:
        place = locate(netns=Path(netns) if netns is not None else None, pid=pid, ifname=ifname)
    except (RedirectError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if place.refusal:
        raise click.ClickException(f"pod {pod} cannot be captured: {place.refusal}")
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(map(split_label, labels))},
        "spec": {
            "nodeName": node or socket.gethostname(),
            "serviceAccountName": service_account,
            "containers": [{"name": "main"}],
        },
        "status": {"podIPs": [{"ip": str(ip)} for ip in place.addresses]},
    }
    if not labels:
        del manifest["metadata"]["labels"]
    click.echo(yaml.safe_dump(manifest, sort_keys=False), nl=False)


def split_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--label {text!r} is not KEY=VALUE")
    return key, value
