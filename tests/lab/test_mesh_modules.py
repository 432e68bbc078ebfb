"""What the processes of a node have loaded when they have done their work: each only what it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from redirect import child
from tests.support.labmesh import World, running
from tests.support.labtraffic import PATIENCE_S

pytestmark = pytest.mark.kernel

SHARED = {
    "agent.build",
    "agent.channel",
    "agent.channel_socket",
    "agent.config",
    "agent.dataclass_code",
    "agent.defects",
    "agent.fd_limit",
    "agent.form",
    "agent.given_options",
    "agent.identity",
    "agent.log",
    "agent.log_force",
    "agent.log_levels",
    "agent.memory_order",
    "agent.mesh_state",
    "agent.model",
    "agent.option_combinations",
    "agent.option_kinds",
    "agent.option_rows",
    "agent.net.frames",
    "agent.net.sockets",
    "agent.pb",
    "agent.policy",
    "agent.privileges",
    "agent.start",
    "agent.state",
    "agent.telemetry",
    "agent.wire",
    "redirect.child",
    "redirect.netns",
    "redirect.nursery",
    "redirect.shown_command",
    "redirect.side",
    "redirect.spawn",
}
"""In both, because the worker is forked from what control is at first."""
# The hand-over too, from the start: what lies on the disk when it comes may be of another build.
WORKER = SHARED | {
    "agent.handover",
    "agent.net",
    "agent.proxy",
    "agent.supervisor.control_link",
    "agent.worker",
}
LIBRARIES = {"OpenSSL", "cryptography", "google", "hpack", "typing_extensions", "_cffi_backend", "_openssl"}
"""Beside the standard library's, all that a worker has of others."""
OF_THE_SITE = {"__main__", "_distutils_hack", "sitecustomize", "tests"}
NOT_FOR_CONTROL = {
    "agent.handover",
    "agent.proxy",
    "agent.worker",
    "agent.supervisor.control_link",
    "agent.cli",
    "agent.cni",
    "agent.kubernetes.source",
    "agent.zds",
    "click",
    "dns",
    "hpack",
    "prometheus_client",
    "psutil",
    "pyroute2",
    "redirect.bcc_backend",
    "yaml",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running("m", tmp_path_factory.mktemp("modules")) as made:
        yield made


def within(name: str, allowed: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: n + 1]) in allowed for n in range(len(parts)))


def packages_of(allowed: set[str]) -> set[str]:
    """The packages that what is allowed lies in."""
    return {name.rpartition(".")[0] for name in allowed}


def told(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in directory.iterdir()]


def ours(said: dict[str, Any]) -> set[str]:
    return {name for name in said["modules"] if name.split(".")[0] in ("agent", "redirect")}


def test_each_process_has_loaded_what_it_runs_and_nothing_else(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)  # a worker has no right to write where root alone may
    process = world.process("agent-node-a")
    process.terminate()
    process.wait(PATIENCE_S)
    before = world.mesh.ztun
    world.mesh.ztun = tuple(child.command("tests.support.telling_ztun", str(tmp_path)))
    world.restart("node-a")
    world.mesh.ztun = before
    agent = world.process("agent-node-a")
    assert "agent" in psutil.Process(agent.pid).cmdline(), "ps shows the command that was given"
    assert "tests.support.telling_ztun" in psutil.Process(agent.pid).cmdline()
    workers = world.workers("node-a").values()
    for worker in workers:
        mapped = Path(f"/proc/{worker}/maps").read_text()
        assert "cygrpc" not in mapped and "_rust.abi3" in mapped
    assert world.is_served("client-a", world.address("server-b"))
    assert world.is_served("client-b", world.address("server-a"))
    world.cli("status", node="node-a")
    agent.terminate()
    agent.wait(PATIENCE_S)
    world.restart("node-a")

    said = told(tmp_path)
    of_workers = [each for each in said if "agent.worker" in each["shown"]]
    [control] = [each for each in said if "agent.worker" not in each["shown"]]
    assert len(of_workers) == len(workers)
    for each in of_workers:
        wrong = {
            n
            for n in ours(each)
            if not within(n, WORKER) and n not in packages_of(WORKER) | {"agent", "redirect"}
        }
        assert not wrong, f"a worker has loaded {sorted(wrong)}"
        loaded = {name.split(".")[0] for name in each["modules"] if not name.startswith("__editable__")}
        foreign = loaded - {"agent", "redirect"} - LIBRARIES - OF_THE_SITE - sys.stdlib_module_names
        assert not foreign, f"a worker has loaded {sorted(foreign)}"
    wrong = {name for name in control["modules"] if within(name, NOT_FOR_CONTROL)}
    assert not wrong, f"control has loaded {sorted(wrong)}"
    # What one of them loads that the other has too is there before the fork, or the node holds it twice.
    twice = (ours(of_workers[0]) & ours(control)) - {name for name in ours(control) if within(name, SHARED)}
    assert not twice - packages_of(SHARED | WORKER) - {"agent", "redirect"}, f"held twice: {sorted(twice)}"
