"""What the agent of a lab's node says of one pod, and how that pod's next connection goes."""

from __future__ import annotations

import json
from typing import Any

from agent.lab.topology import PodPlace
from tests.support.labmesh import SILENCE_S, World
from tests.support.labtraffic import Talk, until


def row(world: World, pod: PodPlace) -> dict[str, Any]:
    """What the agent serves the pod as; empty while it does not."""
    rows = [row for row in world.status(pod.node)["pods"] if row["pod"] == pod.key]
    return rows[0] if rows else {}


def waiting(world: World, key: str, node: str = "node-a") -> dict[str, Any]:
    rows = [row for row in world.status(node)["waiting"] if row["pod"] == key]
    return rows[0] if rows else {}


def is_back(world: World, pod: PodPlace) -> bool:
    return bool(row(world, pod)) and world.status(pod.node)["state"] == "READY"


def wait_until_back(world: World, pod: PodPlace, how: str = "the pod is served again") -> None:
    """Fails with what the agent says of the pod."""
    try:
        until(lambda: is_back(world, pod), how)
    except AssertionError as error:
        said = world.status(pod.node)
        shown = {each: said[each] for each in ("state", "reasons", "waiting", "history")}
        raise AssertionError(f"{error}; {json.dumps(shown)}; {row(world, pod)}") from None


def assert_in_mesh(world: World, client: PodPlace) -> None:
    """Its next connection is dialled by HBONE."""
    log = world.log(client.node)
    with world.talk(client.name, world.address("server-b")) as talk:
        talk.say()
        own = talk.address
    log.line('direction="outbound"', f"src.addr={own}", ":15008")


def is_served_soon(world: World, client: str) -> bool:
    """Whether a connection to a pod outside the mesh gets through before a SYN would be repeated."""
    try:
        with world.dial(client, world.address("outsider-b"), timeout_s=SILENCE_S) as sock:
            Talk(sock).say()
    except OSError:
        return False
    return True
