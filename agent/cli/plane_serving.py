"""What `ztun control-plane` does when it serves: the way to the cluster, and the control plane until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click

from agent.config import api_of_pod
from agent.controlplane.app import Options, serve
from agent.controlplane.kubeapi.grounds import Way
from agent.controlplane.state_dir import StateError
from agent.kubernetes.access import SERVICE_ACCOUNT, Access, no_api, of_kubeconfig, of_pod
from agent.privileges import refuse_core_dumps

OWN_NAMESPACE = SERVICE_ACCOUNT / "namespace"


def run(options: Options) -> None:
    """Raises ClickException where the state directory cannot be used."""
    refuse_core_dumps()
    try:
        asyncio.run(until_stopped(options))
    except StateError as error:
        raise click.ClickException(str(error)) from error


async def until_stopped(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; says `ready HOST:PORT` on stdout once there is something to serve."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    def started(address: str) -> None:
        logging.getLogger(__name__).info(
            "serving %s on %s", options.ztunnel_config or options.manifests, address
        )
        click.echo(f"ready {address}")

    await serve(options, stop=stop, started=started)


def way_to(kubeconfig: Path | None, namespace: str | None, agents: str) -> Way:
    """Raises UsageError where it is not known."""
    server = api_of_pod()
    if kubeconfig is None and not server:
        raise click.UsageError(f"--kubernetes: {no_api('--kubeconfig is not given')}")
    if namespace is None:
        try:
            namespace = OWN_NAMESPACE.read_text().strip()
        except OSError as error:
            raise click.UsageError(
                f"--namespace is missing, and {OWN_NAMESPACE} does not tell it: {error.strerror}"
            ) from error

    def access() -> Access:
        return of_kubeconfig(kubeconfig) if kubeconfig is not None else of_pod(server)

    return Way(access, namespace, f"{namespace}/{agents}")
