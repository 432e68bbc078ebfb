"""One agent of a lab after another, as upgrades and other options make them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from tests.bench.systems import HERE
from tests.support.labmesh import World
from tests.support.labtraffic import until

ROOT = HERE.parents[1]
PATIENCE_S = 90.0
"""It stays until the workers that it had are gone."""


def roll(world: World, node: str, ztun: tuple[str, ...], number: int) -> None:
    """The next agent is there before the one before it ends."""
    former, log = world.process(f"agent-{node}"), world.log(node)
    start(world, node, ztun, number)
    until(lambda: log.lines("waiting until it ends"), "the next agent waits")
    os.kill(former.pid, signal.SIGTERM)
    until(lambda: not former.is_running() or former.status() == "zombie", "the one before ends", PATIENCE_S)


def start(world: World, node: str, ztun: tuple[str, ...], number: int) -> None:
    """With an option of its own, so that its workers are others."""
    mesh, ours, flags = world.mesh, world.mesh.ztun, world.mesh.flags
    mesh.ztun, mesh.flags = ztun, {**flags, "pod-name": f"agent-{number}"}
    try:
        mesh.start_agent(world.node(node))
    finally:
        mesh.ztun, mesh.flags = ours, flags


def other_version(directory: Path) -> tuple[str, ...]:
    """The command of this tree with other programs: their sources have a line more, so that another hash names them."""
    for package in ("agent", "redirect", "bpf"):
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    header = directory / "bpf" / "include" / "ztun_types.h"
    header.write_text(header.read_text() + "\n/* another version */\n")
    return (sys.executable, "-I", str(directory / "redirect" / "child.py"), "agent.cli.entry", "-1")
