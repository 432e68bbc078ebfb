"""How the agents of a lab are called: plain names, for those who look for them without building anything."""

from __future__ import annotations

from pathlib import Path

RUN_ROOT = Path("/run/ztun-lab")
NAMESPACES = Path("/run/netns")


def instance_of(lab: str, node: str) -> str:
    """The instance of a node's agent: `node-a` of lab `ztunlab` is `ztunlab-a`."""
    return f"{lab}-{node.removeprefix('node-')}"


def run_dir_of(lab: str, node: str, root: Path = RUN_ROOT) -> Path:
    """Its run directory. `node` may be the last part of its name alone."""
    return root / lab / f"run-node-{node.removeprefix('node-')}"


def netns_of(lab: str, node: str) -> Path:
    """The network namespace of a node."""
    return NAMESPACES / instance_of(lab, node)


def state_dir_of(lab: str, root: Path = RUN_ROOT) -> Path:
    """The state directory of a lab's control plane."""
    return root / lab / "control-plane"
