"""Break glass in a lab: the commands on node-a, and every process of ztun there stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from click.testing import CliRunner, Result

from agent.admin.client import AgentAbsent
from agent.cli import main
from redirect import netns
from tests.support.labmesh import SILENCE_S, World

ON_NODE = ("demo/client-a", "demo/server-a")
SHORT_S = 3
"""How long something is open that is waited for to be over."""


def ztun(world: World, *arguments: str) -> Result:
    """`ztun ARGUMENTS` on node-a, in this process: to start one takes a second."""
    where = ["--instance", world.mesh.instance("node-a"), "--run-dir", str(world.mesh.run_dir("node-a"))]
    with netns.entered(world.node("node-a").netns):
        return CliRunner().invoke(main.ztun, [*arguments, *where])


def bypass(world: World, *arguments: str) -> Result:
    done = ztun(world, "bypass", *arguments)
    assert done.exit_code == 0, done.output
    return done


def is_open(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bypass(world, "-o", "json").stdout)["bypasses"]
    return found


def seen_by_agent(world: World) -> list[dict[str, Any]]:
    """Nothing while it is not there yet."""
    try:
        found: list[dict[str, Any]] = world.status("node-a")["bypasses"]
    except AgentAbsent:
        return []
    return found


def processes(world: World) -> list[psutil.Process]:
    """Every process of ztun on node-a: control, workers, and what forks them."""
    run_dir = str(world.mesh.run_dir("node-a"))
    control = world.process("agent-node-a")
    pids = {
        control.pid,
        *(child.pid for child in control.children(recursive=True)),
        *world.workers("node-a").values(),
    }
    pids |= {p.pid for p in psutil.process_iter(["cmdline"]) if run_dir in " ".join(p.info["cmdline"] or ())}
    return [psutil.Process(pid) for pid in sorted(pids) if psutil.pid_exists(pid)]


@contextmanager
def all_stopped(world: World) -> Iterator[None]:
    stopped = processes(world)

    def send_all(number: signal.Signals) -> None:
        for process in stopped:
            # Whoever does one thing for the control process may have ended by now.
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    send_all(signal.SIGSTOP)
    try:
        yield
    finally:
        send_all(signal.SIGCONT)
    world.mesh.wait_ready("node-a")


def is_refused(world: World, client: str, host: str) -> bool:
    """Nobody answers: what is captured waits for a process that does nothing."""
    try:
        world.ask(client, host, timeout_s=SILENCE_S)
    except OSError:
        return True
    return False


def is_reset(talk: Any) -> bool:
    try:
        talk.say()
    except (ConnectionError, OSError):
        return True
    return False
