"""`ztun control-plane`: the embedded control plane, its status, and tokens for the agents that may ask it."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from agent.cli import plane_status
from agent.cli.output import option_of
from agent.config import ConfigError
from agent.controlplane.serve.tokens import issue
from agent.controlplane.state_dir import ROOT_FILE, StateDirectory, StateError
from agent.lab.naming import state_dir_of
from agent.log import set_up_log
from agent.model.address import CIDR, AddressError, split_host_port, split_listen
from agent.model.identity import is_trust_domain
from agent.option_kinds import cidrs, mesh_name

NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?|[0-9A-Fa-f:.]+")
ROOT_PATIENCE_S = 2.0
STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/ztun"),
    show_default=True,
    help="Root key and certificate, tokens, allocated VIPs.",
)


def listening_place(_: click.Context, __: click.Parameter, value: str) -> str:
    """Port 0 takes a free one."""
    try:
        split_listen(value)
    except AddressError as error:
        raise click.BadParameter(str(error)) from error
    return value


def names(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Of hosts, as a certificate may carry them."""
    for name in value:
        if not NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is neither the name of a host nor an IP")
    return value


def one_name(_: click.Context, __: click.Parameter, value: str) -> str:
    """Of a cluster."""
    try:
        return mesh_name(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} cannot be used: {error}") from error


def metrics_place(_: click.Context, __: click.Parameter, value: str) -> str:
    """Empty for `off`."""
    if value == "off":
        return ""
    try:
        split_host_port(value)
    except AddressError as error:
        raise click.BadParameter(f"{error}; `off` serves no metrics") from error
    return value


@click.group(name="control-plane", invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@click.option(
    "--manifests", type=click.Path(file_okay=False, path_type=Path), help="Directory with the YAML to serve."
)
@click.option(
    "--ztunnel-config",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Serve a file of ztunnel's (its LOCAL_XDS_PATH) in place of a directory, as it is at the start.",
)
@click.option(
    "--kubernetes",
    is_flag=True,
    help="Serve the objects of the Kubernetes API in place of a directory, and know agents by their tokens of it.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="How to reach that API; without it as the pod that this runs in.",
)
@click.option(
    "--namespace",
    metavar="NAMESPACE",
    help="Where Secret ztun-ca and ConfigMap istio-ca-root-cert are kept; without it the pod's own.",
)
@click.option(
    "--agents",
    metavar="ACCOUNT",
    default="ztun-agent",
    show_default=True,
    help="Service account of the agents, there.",
)
@STATE_DIR
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:15012",
    show_default=True,
    callback=listening_place,
    help="Where to serve xDS and the CA.",
)
@click.option(
    "--metrics-address",
    metavar="HOST:PORT|off",
    default="127.0.0.1:15014",
    show_default=True,
    callback=metrics_place,
    help="Where to serve /metrics by plain HTTP.",
)
@click.option(
    "--service-cidr",
    metavar="CIDR,...",
    help="Ranges for Services without clusterIP.  [default: 10.96.0.0/16,fd77:96::/112]",
)
@click.option(
    "--trust-domain",
    metavar="NAME",
    default="cluster.local",
    show_default=True,
    help="Trust domain of all identities.",
)
@click.option(
    "--cluster-id",
    metavar="NAME",
    default="Kubernetes",
    show_default=True,
    callback=one_name,
    help="Cluster of all pods and nodes.",
)
@click.option(
    "--server-name",
    metavar="NAME",
    multiple=True,
    callback=names,
    help="A further name or IP of the server certificate; may be repeated.",
)
@click.option(
    "--status-out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to keep the status conditions of all objects in, in Istio's shape, as a List for kubectl.",
)
@click.option(
    "--log-format",
    type=click.Choice(["plain", "json"]),
    default="plain",
    show_default=True,
    help="Format of the log.",
)
@click.pass_context
def control_plane(
    context: click.Context,
    manifests: Path | None,
    ztunnel_config: Path | None,
    kubernetes: bool,
    kubeconfig: Path | None,
    namespace: str | None,
    agents: str,
    state_dir: Path,
    listen: str,
    metrics_address: str,
    service_cidr: str | None,
    trust_domain: str,
    cluster_id: str,
    server_name: tuple[str, ...],
    status_out: Path | None,
    log_format: str,
) -> None:
    """Serve manifests, or a cluster's API, to agents.

    Discovery, and the certificates of the pods. `ready HOST:PORT` on stdout says that there is something to serve.
    """
    if context.invoked_subcommand is not None:
        refuse_options_before(context)
        return
    # Only here: it is the whole control plane, which `status` and `token` would load, too.
    from agent.cli.plane_serving import run, way_to
    from agent.controlplane.app import Options

    if ztunnel_config is not None and (manifests is not None or kubernetes):
        raise click.UsageError(
            "--ztunnel-config, --manifests and --kubernetes: one of them says what is served"
        )
    for option, said in (("--service-cidr", service_cidr), ("--status-out", status_out)):
        if ztunnel_config is not None and said is not None:
            raise click.UsageError(f"{option} is for manifests: --ztunnel-config says all addresses itself")
    cluster = None
    if kubernetes:
        if manifests is not None:
            raise click.UsageError("--manifests and --kubernetes: one of them says what is served")
        cluster, manifests = way_to(kubeconfig, namespace, agents), state_dir / "api"
    elif kubeconfig or namespace or context.get_parameter_source("agents") is not ParameterSource.DEFAULT:
        raise click.UsageError("--kubeconfig, --namespace and --agents are for --kubernetes")
    if ztunnel_config is not None:
        manifests = ztunnel_config.parent
    if manifests is None:
        raise click.UsageError("--manifests is missing: the directory with the Kubernetes YAML to serve")
    if cluster is None and not manifests.is_dir():
        raise click.UsageError(
            f"--manifests: there is no directory {manifests}; make it: mkdir -p {manifests}"
        )
    if not is_trust_domain(trust_domain):
        raise click.UsageError(
            f"--trust-domain: SPIFFE does not allow {trust_domain!r}: only a-z, 0-9, '.', '-' and '_', at most 255"
        )
    options = Options(
        manifests=manifests,
        state_dir=state_dir,
        listen=listen,
        metrics_address=metrics_address,
        # Two control planes on one machine are no mistake as long as nobody asked for this very port.
        metrics_optional=context.get_parameter_source("metrics_address") is ParameterSource.DEFAULT,
        trust_domain=trust_domain,
        cluster_id=cluster_id,
        server_names=server_name,
        status_out=status_out,
        ztunnel_config=ztunnel_config,
        cluster=cluster,
    )
    if service_cidr:
        options = replace(options, service_cidr=parse_cidrs(service_cidr))
    set_up_log("info", log_format, "control-plane")
    run(options)


def refuse_options_before(context: click.Context) -> None:
    """Options of serving have no effect on a sub-command. Raises UsageError."""
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT:
            option, command = parameter.opts[0], context.invoked_subcommand
            raise click.UsageError(
                f"{option} before {command} says how to serve, which {command} does not: leave it out, or write it "
                f"behind {command} if that has it"
            )


def parse_cidrs(text: str) -> tuple[CIDR, ...]:
    try:
        return cidrs(text)
    except (ValueError, ConfigError) as error:
        raise click.UsageError(f"--service-cidr: {error}") from error


@control_plane.command()
@click.option(
    "--node", metavar="NAME", required=True, help="Name of the node, as in spec.nodeName of its pods."
)
@STATE_DIR
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Copy the token there as well (0600)."
)
def token(node: str, state_dir: Path, out: Path | None) -> None:
    """Make the token by which a node's agent is known.

    An older one of that node ends. Prints the path of the file with it.
    """
    try:
        path = issue(state_dir, node)
        # Of a script that has started one in the line before, it may be about to make its root.
        until = time.monotonic() + ROOT_PATIENCE_S
        while not (is_anybodys := (state_dir / ROOT_FILE).exists()) and time.monotonic() < until:
            time.sleep(0.05)
    except StateError as error:
        raise click.ClickException(str(error)) from error
    if not is_anybodys:
        click.echo(
            f"note: no control plane has ever served from {state_dir} (--state-dir): the token is of no use to "
            f"an agent until one is started with --state-dir {shlex.quote(str(state_dir))}",
            err=True,
        )
    try:
        if out is not None and out != path:
            StateDirectory(out.parent).write(out.name, path.read_bytes())
    except StateError as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(out or path))


@control_plane.command()
@STATE_DIR
@click.option("--lab", metavar="NAME", help="That of a lab, in place of --state-dir.")
@option_of(
    "line",
    "table",
    "json",
    help="One line and the reasons, tables with warnings, nodes and addresses, or everything.",
)
@click.pass_context
def status(context: click.Context, state_dir: Path, lab: str | None, output: str) -> None:
    """Show whether the control plane serves, and what it refused.

    The first word is READY (exit status 0), DEGRADED (3: something was refused or has no effect) or DEAD (4).
    """
    if lab is not None:
        if context.get_parameter_source("state_dir") is not ParameterSource.DEFAULT:
            raise click.UsageError("--lab names the control plane already: leave --state-dir out")
        state_dir = state_dir_of(lab)
        if not state_dir.is_dir():
            raise click.UsageError(
                f"lab {lab} has no control plane here; `ztun lab up --name {lab}` makes one"
            )
    plane_status.show(state_dir, output)
