"""A lab waits for its agents, and for none that has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent import config
from agent.lab.agents import LabMesh
from agent.lab.blueprint import LabError
from agent.lab.topology import Topology

FOREVER_S = 3600.0


def test_an_agent_that_ends_is_waited_for_no_longer_and_its_last_words_are_told(tmp_path: Path) -> None:
    mesh = LabMesh(Topology("x", tmp_path), patience_s=FOREVER_S)
    mesh.topology.journal.claim()
    with mesh.log("agent-node-a").open("w") as log:
        refused = "print('ztun: cannot be used'); raise SystemExit(2)"
        agent = subprocess.Popen([sys.executable, "-c", refused], stdout=log)
    with pytest.raises(LabError, match="the agent of node-a ended: ztun: cannot be used"):
        mesh.wait_ready("node-a", agent)


def test_a_lab_of_any_patience_asks_agents_for_no_more_than_they_take(tmp_path: Path) -> None:
    """One of 5,400 s waited for agents that refused it."""
    mesh = LabMesh(Topology("x", tmp_path), patience_s=5400)
    (text,) = mesh.load_flags.values()
    assert config.build({"load_timeout_s": text}).load_timeout_s == float(text) == 3600
    with pytest.raises(config.ConfigError):
        config.build({"load_timeout_s": "5400"})
    assert not LabMesh(Topology("x", tmp_path)).load_flags
