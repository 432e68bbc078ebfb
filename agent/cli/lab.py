"""`ztun lab`: two nodes with pods, a control plane and agents, on one machine, in namespaces of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from agent.cli import output as out
from agent.cli.kinds import Seconds
from agent.lab import blueprint
from agent.lab.agents import PATIENCE_S, LabMesh
from agent.lab.blueprint import QUICKSTART, LabError
from agent.lab.topology import DEFAULT_NAME, Topology
from agent.model.counted import counted
from redirect import netns

NAME = click.option("--name", metavar="NAME", default=DEFAULT_NAME, show_default=True, help="Which lab.")


def as_lab_error(action: Callable[[], None]) -> None:
    try:
        action()
    except LabError as error:
        raise click.ClickException(str(error)) from error
    except PermissionError as error:
        raise click.ClickException(f"the lab makes network namespaces: run this as root ({error})") from error


@click.group()
def lab() -> None:
    """Build, use and remove a lab of two nodes."""


@lab.command()
@NAME
@click.option(
    "--pods", type=click.IntRange(1, 200), help="This many generated pods per node, not the manifests."
)
@click.option(
    "--manifests",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=QUICKSTART,
    help="Directory with the nodes' pods.  [default: those of the quickstart]",
)
@click.option(
    "--patience",
    "patience_s",
    type=Seconds(1, 3600),
    default=PATIENCE_S,
    show_default=True,
    metavar="SECONDS",
    help="How long the control plane and each agent may take to be ready.",
)
@click.option("--bare", is_flag=True, help="Only nodes and pods: no control plane, no agents.")
def up(name: str, pods: int | None, manifests: Path, patience_s: float, bare: bool) -> None:
    """Build the lab; pods are not enrolled yet."""

    def build() -> None:
        topology = Topology(name)
        mesh = LabMesh(topology, patience_s=patience_s)
        if not bare:
            mesh.check_name()
        plan = blueprint.read(manifests) if pods is None else blueprint.parse(blueprint.generate(pods))
        topology.up(plan)
        if not bare:
            try:
                source = manifests
                if pods is not None:
                    source = topology.journal.directory / "generated"
                    source.mkdir()
                    blueprint.write(blueprint.generate(pods), source / "lab.yaml")
                mesh.start(source)
            except BaseException:
                click.echo(topology.journal.last_words(), err=True)
                mesh.down()
                raise
        click.echo(
            f"lab {name} is up: {counted(len(topology.nodes), 'node')}, {counted(len(topology.pods), 'pod')}"
        )
        click.echo(f"  look:    ztun lab status --name {name}")
        if not bare:
            pod = next(iter(topology.pods.values()), None)
            node, key, ifname = (pod.node, pod.key, pod.ifname) if pod else ("NODE", "NAMESPACE/POD", "IF")
            click.echo(f"  enrol:   ztun enroll --lab {name}/{node} {key} --ifname {ifname}")
        click.echo(f"  enter:   ztun lab exec --name {name} NAMESPACE/POD COMMAND...")
        click.echo(f"  remove:  ztun lab down --name {name}")
        if not bare:
            click.echo(f"  policy:  write it into {mesh.manifests}")
            click.echo(f"  logs:    {mesh.log('*')}")

    as_lab_error(build)


@lab.command()
@NAME
def down(name: str) -> None:
    """Remove the lab and everything in it. Harmless when there is none."""

    def remove() -> None:
        topology = Topology(name)
        is_there = topology.journal.exists
        LabMesh(topology).down()
        click.echo(f"lab {name} is gone" if is_there else f"there is no lab {name}")

    as_lab_error(remove)


@lab.command()
@NAME
@out.output_option
def status(name: str, output: str) -> None:
    """List the pods of the lab and how to reach the agents."""

    def show() -> None:
        topology = Topology.load(name)
        mesh = LabMesh(topology)
        pods = [
            {
                "pod": pod.key,
                "node": pod.node,
                "interface": pod.ifname,
                "addresses": list(pod.addresses),
                "netns": str(pod.netns),
            }
            for pod in topology.pods.values()
        ]
        nodes = [
            {
                "node": node.name,
                "netns": str(node.netns),
                "instance": mesh.instance(node.name),
                "run_dir": str(mesh.run_dir(node.name)),
            }
            for node in topology.nodes.values()
        ]
        if output == "json":
            out.show_json({"nodes": nodes, "pods": pods})
            return
        out.show_table(nodes, ["node", "netns", "run_dir"])
        click.echo()
        # One row for each address: a line of both would not fit 80 columns.
        rows = [
            {**pod, "address": str(ip)} if not n else {"address": str(ip)}
            for pod, place in zip(pods, topology.pods.values(), strict=True)
            for n, ip in enumerate(place.addresses)
        ]
        out.show_table(rows, ["pod", "interface", "address", "netns"])
        click.echo(f"\nagents:         ztun status --lab {name}/{nodes[0]['node']}")
        click.echo(f"control plane:  ztun control-plane status --lab {name}")
        if mesh.manifests.is_dir():
            click.echo(f"manifests:      {mesh.manifests}")
            click.echo(f"logs:           {mesh.log('*')}")

    as_lab_error(show)


@lab.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@NAME
@click.argument("place", metavar="NAMESPACE/POD|NODE")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, place: str, command: tuple[str, ...]) -> None:
    """Run a command in a pod's, or a node's, network namespace."""
    if command[0] == "--":
        command = command[1:]
    if not command:
        raise click.UsageError("no command to run")

    def run() -> None:
        topology = Topology.load(name)
        where = topology.pods.get(place) or topology.nodes.get(place)
        if where is None:
            known = ", ".join([*topology.pods, *topology.nodes])
            raise LabError(f"no pod or node {place!r} in lab {name}; there are {known}")
        netns.enter(where.netns)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            # As a shell has it: 127 for a command that is not there, 126 for one that cannot be run.
            click.echo(f"ztun: {command[0]}: {error.strerror}", err=True)
            sys.exit(127 if isinstance(error, FileNotFoundError) else 126)

    as_lab_error(run)
