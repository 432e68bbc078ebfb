"""`ztun enroll` and `ztun unenroll`: ask the agent of this node to capture pods, or to let them go.

Each pod is a request of its own, all of them at once, so that pods that have to wait wait together. What becomes of one
changes nothing for the others; the results come in the order in which the pods were named.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli.kinds import Seconds
from agent.cli.which import Command, Which, which_agent
from agent.model.counted import counted

WAIT_S = 5.0
SAY_AFTER_S = 1.0
"""A pod that is served within this time needs no word about waiting."""
AT_ONCE = 32
"""Requests that are under way, at most."""
EXIT_CODES = {"waiting": 3, "refused": 1, "no answer": 4}
"""By what became of a pod; of several pods the last of these counts."""


def split_pod(pod: str) -> tuple[str, str]:
    namespace, slash, name = pod.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise click.UsageError(f"{pod!r} is not NAMESPACE/NAME")
    return namespace, name


def split_pods(pods: Sequence[str]) -> list[tuple[str, str]]:
    """Raises click.UsageError, also for a pod that is named twice."""
    for pod in pods:
        if pods.count(pod) > 1:
            raise click.UsageError(f"{pod} is named twice")
    return list(map(split_pod, pods))


def where_options(command: Command) -> Command:
    """Adds the three ways to say where pods are; `places` holds a call to one of them for each."""
    netns = click.option(
        "--netns", multiple=True, metavar="PATH", help="Path of the pod's network namespace."
    )
    pid = click.option("--pid", type=int, multiple=True, metavar="PID", help="A process of the pod.")
    ifname = click.option(
        "--ifname", multiple=True, metavar="IF", help="The pod's interface on this host (its host veth)."
    )
    return netns(pid(ifname(command)))


def places(
    pods: Sequence[str], netns: Sequence[str], pid: Sequence[int], ifname: Sequence[str]
) -> list[dict[str, Any]]:
    """Where each pod is, in their order. Raises click.UsageError."""
    kinds: dict[str, Sequence[str | int]] = {"netns": netns, "pid": pid, "ifname": ifname}
    given = {kind: values for kind, values in kinds.items() if values}
    if len(given) != 1 or len(pods) == 1 != len(*given.values()):
        raise click.UsageError("say where the pod is, once: --netns PATH, --pid PID or --ifname IF")
    ((kind, values),) = given.items()
    if kind == "netns":
        # The agent has another working directory, and its wish outlives it.
        values = [str(Path(value).absolute()) for value in netns]
    if len(values) != len(pods):
        raise click.UsageError(
            f"{counted(len(pods), 'pod is', 'pods are')} named, and --{kind} is given {counted(len(values), 'time')}: "
            "say for each pod where it is, in their order"
        )
    return [{kind: value} for value in values]


@dataclass(slots=True)
class Result:
    """What became of a pod: `served`, `waiting`, `refused`, `un-enrolled` or `no answer`, and the agent's words."""

    pod: str
    state: str = "no answer"
    answer: dict[str, Any] | None = None
    reason: str = ""
    error: Exception | None = None
    is_told: bool = False
    """The reason was printed when the wait began."""

    def row(self) -> dict[str, object]:
        answer = self.answer or {}
        return {
            "pod": self.pod,
            "state": self.state,
            "identity": answer.get("identity", ""),
            "interface": answer.get("ifname", ""),
            "addresses": answer.get("addresses", []),
            "notes": answer.get("notes", []),
            "reason": self.reason,
        }


def for_each(pods: Sequence[str], ask: Callable[[int, Result], None]) -> list[Result]:
    """Call `ask` with the number and the result of each pod, at once. Raises what is no pod's but the agent's."""
    results = [Result(pod) for pod in pods]
    free = threading.Semaphore(AT_ONCE)

    def one(number: int, result: Result) -> None:
        with free:
            try:
                ask(number, result)
            except client.AgentRefused as error:
                result.state, result.reason, result.error = "refused", str(error), error
            except client.AgentAbsent as error:
                result.reason, result.error = str(error), error

    # Daemons, so that Ctrl-C ends the command while they wait.
    threads = [threading.Thread(target=one, args=row, daemon=True) for row in enumerate(results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = results[0]
    is_the_agents = len(results) > 1 or isinstance(first.error, client.AgentAbsent)
    if first.error is not None and is_the_agents and {result.reason for result in results} == {first.reason}:
        raise first.error
    return results


def finish(results: Sequence[Result], output: str, say: Callable[[Result], None]) -> None:
    """Print what became of each pod and end with the exit status of the worst."""
    if output == "json":
        out.show_json({"pods": [result.row() for result in results]})
    for result in results:
        if result.state in EXIT_CODES:
            about = f"{result.pod}: " if len(results) > 1 and result.pod not in result.reason else ""
            still = f"{result.pod} still waits, for the same reason; {result.reason.rpartition('; ')[2]}"
            click.echo(f"ztun: {still if result.is_told else about + result.reason}", err=True)
        elif output != "json":
            say(result)
    failed = {result.state for result in results}
    for state in reversed(EXIT_CODES):
        if state in failed:
            sys.exit(EXIT_CODES[state])


@click.command()
@click.argument("pods", metavar="NAMESPACE/NAME...", nargs=-1, required=True)
@where_options
@click.option("--keep-existing", is_flag=True, help="Let connections that are open now go on, in plaintext.")
@click.option(
    "--keep-for",
    "keep_for_s",
    type=Seconds(1, 31536000),
    metavar="SECONDS",
    help="Let connections that are open now go on, in plaintext, for so long: then what is left of them is reset.",
)
@click.option(
    "--clean",
    is_flag=True,
    help="Take out of the pod what another mesh has left there: its redirections, and nothing else.",
)
@click.option(
    "--honest-connect/--no-honest-connect",
    default=None,
    help="Answer connections from and to the pods only when their destination has answered, or at once; without it as "
    "the agent's --honest-connect says.",
)
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(0, 86400),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the pod is served.",
)
@which_agent
@out.line_option
def enroll(
    pods: tuple[str, ...],
    netns: tuple[str, ...],
    pid: tuple[int, ...],
    ifname: tuple[str, ...],
    keep_existing: bool,
    keep_for_s: float | None,
    clean: bool,
    honest_connect: bool | None,
    wait_s: float,
    which: Which,
    output: str,
) -> None:
    """Capture pods: their TCP goes through the mesh, in and out.

    With several pods --netns, --pid or --ifname is given once for each, in their order. Each has its own result; the
    exit status is 0 only if all of them are served.

    A pod that the control plane has not announced yet, or whose certificate is not there yet, is captured and closed,
    and served as soon as it can be; when that is not within --wait, the exit status is 3 and the wish stands. It is
    found again under the same --netns or --ifname when it comes back, by --pid while that process lives. A refusal
    (status 1) leaves everything as it was.
    """
    names = split_pods(pods)
    where = places(pods, netns, pid, ifname)

    def ask(number: int, result: Result) -> None:
        namespace, name = names[number]
        body = {"namespace": namespace, "name": name, "keep_existing": keep_existing, "clean": clean}
        body |= where[number]
        if keep_for_s is not None:
            body["keep_for_s"] = keep_for_s
        if honest_connect is not None:
            body["honest_connect"] = honest_connect
        said = ""
        answer = client.ask(which.socket, "POST", "/enroll", body | {"wait_s": min(wait_s, SAY_AFTER_S)})
        if "waiting" in answer and wait_s > SAY_AFTER_S:
            said = answer["waiting"]
            click.echo(f"ztun: {said}; waiting for {wait_s:g} s", err=True)
            body["wait_s"] = wait_s - SAY_AFTER_S
            answer = client.ask(which.socket, "POST", "/enroll", body, wait_s=wait_s)
        if "waiting" in answer:
            result.state, result.reason = "waiting", f"{answer['waiting']}; waited for {wait_s:g} s"
            result.is_told = answer["waiting"] == said
        else:
            result.state, result.answer = "served", answer

    finish(for_each(pods, ask), output, say_served)


def say_served(result: Result) -> None:
    answer = result.answer
    assert answer is not None, "it is served"
    click.echo(
        f"enrolled {result.pod} as {answer['identity']} on {answer['ifname']} ({', '.join(answer['addresses'])})"
    )
    for note in answer.get("notes", []):
        click.echo(f"note: {note}")


@click.command()
@click.argument("pods", metavar="NAMESPACE/NAME...", nargs=-1, required=True)
@click.option(
    "--drain",
    "drain_s",
    type=Seconds(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="Let connections that the mesh carries go on so long; without it they are reset at once.",
)
@which_agent
@out.line_option
def unenroll(pods: tuple[str, ...], drain_s: float, which: Which, output: str) -> None:
    """Let pods go: new connections bypass the mesh.

    Those that the mesh carries are reset, with --drain what is left of them after that time: the command waits until
    then, or until none is left. Of several pods each has its own result; the exit status is 0 only if all of them are
    let go.
    """
    names = split_pods(pods)

    def ask(number: int, result: Result) -> None:
        namespace, name = names[number]
        body = {"namespace": namespace, "name": name, "drain_s": drain_s}
        result.answer = client.ask(which.socket, "POST", "/unenroll", body, wait_s=drain_s)
        result.state = "un-enrolled"

    finish(for_each(pods, ask), output, say_let_go)


def say_let_go(result: Result) -> None:
    left = (result.answer or {}).get("reset", 0)
    reset = f"; {counted(left, 'connection of it was', 'connections of it were')} reset" if left else ""
    click.echo(f"un-enrolled {result.pod}{reset}")
