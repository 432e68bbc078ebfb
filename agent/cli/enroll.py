"""`ztun enroll` and `ztun unenroll`: ask the agent of this node to capture a pod, or to let it go."""

from __future__ import annotations

import sys
from typing import Any

import click

from agent.admin import client
from agent.cli.which import Command, Which, which_agent

WAIT_S = 5.0
SAY_AFTER_S = 1.0
"""A pod that is served within this time needs no word about waiting."""
EXIT_WAITING = 3


def split_pod(pod: str) -> tuple[str, str]:
    namespace, slash, name = pod.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise click.UsageError(f"{pod!r} is not NAMESPACE/NAME")
    return namespace, name


def where_options(command: Command) -> Command:
    """Adds the three ways to say where a pod is; `check_where` holds a call to exactly one of them."""
    netns = click.option("--netns", help="Path of the pod's network namespace.")
    pid = click.option("--pid", type=int, help="A process of the pod.")
    ifname = click.option("--ifname", help="The pod's interface on this host (its host veth).")
    return netns(pid(ifname(command)))


def check_where(*places: str | int | None) -> None:
    """Raises click.UsageError."""
    if sum(place is not None for place in places) != 1:
        raise click.UsageError("say where the pod is, once: --netns PATH, --pid PID or --ifname IF")


@click.command()
@click.argument("pod", metavar="NAMESPACE/NAME")
@where_options
@click.option("--keep-existing", is_flag=True, help="Let connections that are open now go on, in plaintext.")
@click.option(
    "--clean",
    is_flag=True,
    help="Take out of the pod what another mesh has left there: its redirections, and nothing else.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 86400),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the pod is served.",
)
@which_agent
def enroll(
    pod: str,
    netns: str | None,
    pid: int | None,
    ifname: str | None,
    keep_existing: bool,
    clean: bool,
    wait_s: float,
    which: Which,
) -> None:
    """Capture a pod: its TCP goes through the mesh, in and out.

    A pod that the control plane has not announced yet, or whose certificate is not there yet, is captured and closed,
    and served as soon as it can be; when that is not within --wait, the exit status is 3 and the wish stands. It is
    found again under the same --netns or --ifname when it comes back, by --pid while that process lives. A refusal
    (status 1) leaves everything as it was.
    """
    namespace, name = split_pod(pod)
    check_where(netns, pid, ifname)
    body: dict[str, Any] = {
        "namespace": namespace,
        "name": name,
        "keep_existing": keep_existing,
        "clean": clean,
    }
    body |= {k: v for k, v in (("netns", netns), ("pid", pid), ("ifname", ifname)) if v is not None}
    answer = client.ask(which.socket, "POST", "/enroll", body | {"wait_s": min(wait_s, SAY_AFTER_S)})
    if "waiting" in answer and wait_s > SAY_AFTER_S:
        click.echo(f"ztun: {answer['waiting']}; waiting for {wait_s:g} s", err=True)
        body["wait_s"] = wait_s - SAY_AFTER_S
        answer = client.ask(which.socket, "POST", "/enroll", body, wait_s=wait_s)
    if "waiting" in answer:
        click.echo(f"ztun: {answer['waiting']}; waited for {wait_s:g} s", err=True)
        sys.exit(EXIT_WAITING)
    click.echo(
        f"enrolled {pod} as {answer['identity']} on {answer['ifname']} ({', '.join(answer['addresses'])})"
    )
    for note in answer.get("notes", []):
        click.echo(f"note: {note}")


@click.command()
@click.argument("pod", metavar="NAMESPACE/NAME")
@which_agent
def unenroll(pod: str, which: Which) -> None:
    """Let a pod go: new connections bypass the mesh.

    Those that the mesh carries are reset.
    """
    namespace, name = split_pod(pod)
    client.ask(which.socket, "POST", "/unenroll", {"namespace": namespace, "name": name})
    click.echo(f"un-enrolled {pod}")
