"""`python -m agent.lab.quickstart`: builds the lab, tells its story, removes it. What scripts/quickstart runs."""

from __future__ import annotations

import argparse
import os
import sys
import time

from agent.lab import blueprint
from agent.lab.agents import LabMesh
from agent.lab.blueprint import QUICKSTART, LabError
from agent.lab.story import Story
from agent.lab.topology import Topology

CHANGES = """\
This machine: network namespaces {name}-*, devices and eBPF programs inside them, pins and sockets under
/run/ztun-lab/{name}. Nothing in the host's own network namespace."""
REMOVED = "All of it is removed at the end."
STAYS = "All of it stays until `ztun lab down --name {name}`."
KEPT = """
The lab is still up. Play with it:
  ztun lab status --name {name}
  ztun lab exec --name {name} demo/client-a .venv/bin/python -m agent.lab.probes request 10.96.77.10 80
  ztun status --lab {name}/node-a
  edit the manifests in {manifests}: changes are served at once
Remove it:  ztun lab down --name {name}      (`ztun` is .venv/bin/ztun)"""


def changes(name: str, keep: bool) -> str:
    """What it does to this machine, and for how long."""
    return f"{CHANGES} {STAYS if keep else REMOVED}".format(name=name)


def tell(name: str, keep: bool) -> int:
    """Run the whole story; the exit status."""
    started_s = time.monotonic()
    topology = Topology(name)
    say(changes(name, keep))
    topology.up(blueprint.read(QUICKSTART))
    mesh = LabMesh(topology)
    try:
        mesh.start(QUICKSTART)
        say(f"lab: 2 nodes, {len(topology.pods)} pods, control plane and 2 agents ready")
        story = Story(mesh, say, time.monotonic)
        steps = (
            ("without the mesh", story.start_servers, story.in_clear),
            ("enrolment", story.enroll_all),
            ("mutual TLS", story.encrypted),
            ("policy", story.policy),
            ("inspection", story.inspect),
        )
        for title, *parts in steps:
            say(title)
            for part in parts:
                part()
        seconds = time.monotonic() - started_s
        verdict = "every fact holds" if not story.failures else f"{story.failures} facts do not hold"
        say(f"{verdict}; {seconds:.1f} s")
        if keep:
            say(KEPT.format(name=name, manifests=mesh.manifests))
    except BaseException:
        say(f"it failed; the logs end so:\n{topology.journal.last_words()}")
        mesh.down()
        raise
    if not keep:
        mesh.down()
        say("removed")
    return 1 if story.failures else 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="the quickstart of ztun")
    parser.add_argument("--keep", action="store_true", help="leave the lab running and say how to use it")
    parser.add_argument("--name", default="ztunlab", help="name of the lab")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("quickstart: it makes network namespaces and loads eBPF programs: run it as root")
    try:
        sys.exit(tell(arguments.name, arguments.keep))
    except LabError as error:
        sys.exit(f"quickstart: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
