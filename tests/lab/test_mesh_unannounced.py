"""Pods, and addresses of pods, that the control plane does not list: closed, said, and served as soon as it does."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import pytest
from pyroute2 import IPRoute

from agent.admin.client import AgentRefused
from agent.lab.agents import ZTUN
from redirect.netns import entered
from tests.support.labmesh import POD, PORT, SILENCE_S, World
from tests.support.labpods import assert_in_mesh, is_served_soon, row, waiting
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel
NEWCOMER = POD.format(name="newcomer-a", account="spare", node="node-a", side=1, low=13)
"""A manifest for the pod that is wired as outsider-a."""


def test_a_pod_that_is_not_announced_yet_is_closed_and_waits(world: World) -> None:
    place = world.pod("outsider-a")
    body = {"namespace": "demo", "name": "newcomer-a", "netns": str(place.netns), "wait_s": 0.2}
    pods = world.mesh.manifests / "pods.yaml"
    text = pods.read_text()
    without = text.replace(
        POD.format(name="outsider-a", account="outsider", node="node-a", side=1, low=13), ""
    )
    assert without != text
    world.write(pods, without)
    try:
        # Until the control plane has heard, the address is another pod's, and that is refused for good.
        until(lambda: "check the name and its manifest" in state_of(world, body), "it waits")
        assert waiting(world, "demo/newcomer-a")["missing"] == "workload"
        assert "pod demo/newcomer-a: control plane: captured and closed" in " ".join(
            world.status("node-a")["reasons"]
        )
        assert not is_served_soon(world, "outsider-a")
        world.write(pods, without + NEWCOMER)
        answer = world.mesh.ask("node-a", "POST", "/enroll", body | {"wait_s": 20})
        assert answer["identity"] == "spiffe://cluster.local/ns/demo/sa/spare"
        log = world.log("node-a")
        with world.talk("outsider-a", world.address("server-b")) as talk:
            talk.say()
            own = talk.address
        log.line('direction="outbound"', f"src.addr={own}", "sa/spare")
    finally:
        world.mesh.ask("node-a", "POST", "/unenroll", {"namespace": "demo", "name": "newcomer-a"})
        world.write(pods, text)
    until(lambda: world.is_served("outsider-a", world.address("outsider-b")), "it is open again")


def state_of(world: World, body: dict[str, Any]) -> str:
    try:
        return str(world.mesh.ask("node-a", "POST", "/enroll", body))
    except AgentRefused as error:
        return str(error)


def test_the_command_line_says_that_it_waits_and_for_how_long(world: World) -> None:
    place = world.pod("outsider-a")
    pods = world.mesh.manifests / "pods.yaml"
    text = pods.read_text()
    others = [part for part in text.split("---") if "name: outsider-a" not in part]
    world.write(pods, "---".join(others))
    asked = ("enroll", "demo/newcomer-a", "--netns", str(place.netns))

    def refused() -> subprocess.CompletedProcess[str] | None:
        done = world.cli(*asked, "--wait", "0", node="node-a")
        if "lists no pod" in done.stderr:
            return done
        # What the manifests said before is still in force: it was taken in.
        world.cli("unenroll", "demo/newcomer-a", node="node-a")
        return None

    try:
        done = until(refused, "the control plane does not list it")
        assert done.returncode == 3
        assert done.stdout == "" and done.stderr.count("\n") == 1
        assert "captured and closed: the control plane lists no pod demo/newcomer-a" in done.stderr
        assert "waited for 0 s" in done.stderr and "`ztun unenroll demo/newcomer-a`" in done.stderr
        waiting_one = subprocess.Popen(
            [*ZTUN, *asked, "--wait", "30", "--run-dir", str(world.mesh.run_dir("node-a"))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with waiting_one:
            assert waiting_one.stderr is not None and waiting_one.stdout is not None
            assert waiting_one.stderr.readline().endswith("waiting for 30 s\n")
            world.write(pods, "---".join(others) + NEWCOMER)
            assert waiting_one.stdout.read().startswith("enrolled demo/newcomer-a as spiffe://")
        assert waiting_one.returncode == 0
    finally:
        world.cli("unenroll", "demo/newcomer-a", node="node-a")
        world.write(pods, text)
    until(lambda: world.is_served("outsider-a", world.address("outsider-b")), "it is open again")


def test_an_address_that_is_not_announced_is_closed_and_the_others_are_served(world: World) -> None:
    pod, extra = world.pod("spare-a"), "10.77.1.140"
    with entered(pod.netns), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="eth0")
        ip.addr("add", index=index, address=extra, prefixlen=32)  # ip addr add ADDRESS dev eth0
    try:
        answer = world.mesh.enroll(pod)
        assert answer["addresses"] == list(map(str, pod.addresses))
        assert any(extra in note and "closed" in note for note in answer["notes"])
        assert row(world, pod)["closed_addresses"] == [extra]
        dropped = world.counters("node-a").get(("from_pod", "SPOOFED"), 0)
        with entered(pod.netns), pytest.raises(TimeoutError):
            socket.create_connection((world.address("server-b"), PORT), SILENCE_S, (extra, 0))
        assert world.counters("node-a").get(("from_pod", "SPOOFED"), 0) > dropped
        assert_in_mesh(world, pod)
    finally:
        with entered(pod.netns), IPRoute() as ip:
            ip.addr("del", index=index, address=extra, prefixlen=32)
    until(lambda: row(world, pod)["closed_addresses"] == [], "what a pod does inside is heard of")
    world.mesh.unenroll(pod)
