"""Which form of the hot path the processes of an agent run: as status says, and as their own memory shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import FORM
from agent.form import LIBRARY, SUFFIX
from tests.support.labmesh import World

pytestmark = pytest.mark.kernel


def extensions_of(pid: int) -> set[str]:
    """The files of extensions of ours that a process runs, as the kernel knows what it mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {
        Path(line.split(maxsplit=5)[5]).name for line in lines if line.endswith(SUFFIX) and "/agent/" in line
    }


def test_workers_run_the_form_that_status_tells(world: World) -> None:
    status = world.status("node-a")
    assert status["form"] == {"kind": FORM.word, "modules": len(FORM.modules)}
    assert f" form={FORM.brief}" in status["line"]
    assert f"({FORM})" in world.cli("--version").stdout
    workers = [worker["pid"] for worker in status["workers"]]
    assert workers
    for pid in workers:
        # All modules of the list are in that one; their own extensions only lead to it.
        mapped = extensions_of(pid)
        assert f"{LIBRARY}{SUFFIX}" in mapped if FORM.modules else not mapped
