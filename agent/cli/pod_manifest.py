"""`ztun pod-manifest`: the Pod of a namespace, process or interface as YAML, so that nobody types addresses."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import click
import yaml

from agent.cli.enroll import places, split_pod, where_options
from agent.cli.output import CliError
from agent.controlplane.read.fields import is_label, is_name
from agent.controlplane.read.scan import ENDINGS
from agent.whole_file import write_whole
from redirect.errors import RedirectError
from redirect.locate import locate

LABEL_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LETTERS = "63 letters, digits, '-', '_' and '.' at most, with a letter or digit at both ends"
"""As the API server has it."""


@click.command("pod-manifest")
@click.argument("pod", metavar="NAMESPACE/NAME")
@where_options
@click.option("--node", metavar="NAME", help="Name of this node.  [default: the host name]")
@click.option(
    "--service-account",
    metavar="NAME",
    default="default",
    show_default=True,
    help="Who the pod is in the mesh.",
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there instead, whole: who watches the directory never reads half of it.",
)
def pod_manifest(
    pod: str,
    netns: tuple[str, ...],
    pid: tuple[int, ...],
    ifname: tuple[str, ...],
    node: str | None,
    service_account: str,
    labels: tuple[str, ...],
    out: Path | None,
) -> None:
    """Print or write the manifest of a pod that runs here.

    Its addresses are read where it runs. Once the control plane has it, `ztun enroll` can capture the pod.
    """
    namespace, name = split_pod(pod)
    for what, text, fits in (
        ("the namespace", namespace, is_label),
        ("the name", name, is_name),
        ("--service-account", service_account, is_name),
    ):
        if not fits(text):
            problem = f"{what} {text!r} is not a name of the mesh: lower case letters, digits and '-'"
            raise click.UsageError(problem)
    meant = dict(map(split_label, labels))
    (where,) = places([pod], netns, pid, ifname)
    if out is not None and (out.name.startswith(".") or not out.name.lower().endswith(ENDINGS)):
        raise click.UsageError(
            f"--out: {out.name!r} would not be read as a manifest: its name must end in {', '.join(ENDINGS)}"
        )
    if "netns" in where:
        where["netns"] = Path(where["netns"])
    try:
        place = locate(**where)
    except PermissionError as error:
        remedy = "run this as root" if os.geteuid() else "the kernel does not let even root"
        raise CliError(f"{error.filename or pod} cannot be looked into: {remedy}") from error
    except (RedirectError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if place.refusal:
        raise click.ClickException(f"pod {pod} cannot be captured: {place.refusal}")
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": meant},
        "spec": {
            "nodeName": node or socket.gethostname(),
            "serviceAccountName": service_account,
            "containers": [{"name": "main"}],
        },
        "status": {"podIPs": [{"ip": str(ip)} for ip in place.addresses]},
    }
    if not meant:
        del manifest["metadata"]["labels"]
    text = yaml.safe_dump(manifest, sort_keys=False)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        write_whole(out, text.encode(), 0o644)
    except OSError as error:
        raise CliError(f"--out: cannot write {out}: {error.strerror}") from error
    click.echo(f"wrote {out}")


def split_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"--label {text!r} is not KEY=VALUE")
    prefix, slash, name = key.rpartition("/")
    if not LABEL_PART.fullmatch(name) or (slash and not is_name(prefix)):
        raise click.UsageError(f"--label {text!r}: {key!r} is no key of a label: [PREFIX/]NAME, {LETTERS}")
    if value and not LABEL_PART.fullmatch(value):
        raise click.UsageError(f"--label {text!r}: {value!r} is no value of a label: {LETTERS}")
    return key, value
