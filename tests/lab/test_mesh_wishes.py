"""Wishes that outlive interfaces, namespaces and agents: the pod comes back, and is in the mesh, or nowhere."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from agent.admin.client import AgentRefused
from agent.lab import wiring
from agent.lab.topology import PodPlace
from redirect import netns
from redirect.netns import entered
from tests.support.labmesh import PORT, SILENCE_S, World
from tests.support.labpods import assert_in_mesh, is_served_soon, row, wait_until_back, waiting
from tests.support.labtraffic import PATIENCE_S, Sniffer, Talk, until

pytestmark = pytest.mark.kernel


def unwire(world: World, pod: PodPlace) -> None:
    """The host veth goes, and the pod's end with it."""
    with entered(world.node(pod.node).netns), IPRoute() as ip:
        ip.link("del", ifname=pod.ifname)


def wire(world: World, pod: PodPlace) -> None:
    """As a CNI plugin does, under the same name and with the same addresses."""
    node = world.node(pod.node).netns
    wiring.attach_pod(node, pod.netns, pod.ifname, pod.addresses)
    wiring.wait_until_up(node)
    wiring.wait_until_up(pod.netns)


def has_interface(world: World, pod: PodPlace) -> bool:
    with entered(world.node(pod.node).netns), IPRoute() as ip:
        return bool(ip.link_lookup(ifname=pod.ifname))


def renew(world: World, pod: PodPlace) -> None:
    """An empty namespace under the pod's path, once the former one is gone: the kernel takes its time for that."""
    netns.remove(pod.netns.name)
    until(lambda: not has_interface(world, pod), "the former namespace is gone")
    netns.ensure(pod.netns.name)


@contextmanager
def watched(world: World, pod: PodPlace) -> Iterator[None]:
    """Nothing of the pod crosses the link of its node in clear."""
    with Sniffer(world.node(pod.node).netns, str(pod.address(4))) as sniffer:
        yield
        seen = [frame for frame in sniffer.frames if is_plain_tcp(frame)]
    assert not seen, f"in clear: {seen[0].hex()}"


def is_plain_tcp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == 6 and 15008 not in ports(frame)


def ports(frame: bytes) -> tuple[int, int]:
    start = 14 + (frame[14] & 15) * 4
    return int.from_bytes(frame[start : start + 2]), int.from_bytes(frame[start + 2 : start + 4])


def test_an_interface_made_again_is_closed_before_it_is_up_and_served_after(world: World) -> None:
    pod = world.pod("client-a")
    node = world.node("node-a").netns
    with world.talk("client-a", world.address("server-b")) as live, watched(world, pod):
        live.say()
        unwire(world, pod)
        found = until(lambda: waiting(world, pod.key), "the pod is waited for")
        assert found["missing"] == "interface" and world.status("node-a")["state"] == "DEGRADED"
        assert f"pod {pod.key}: interface: not there" in " ".join(world.status("node-a")["reasons"])
        assert world.mesh.ask("node-b", "GET", "/announced").count(pod.key), "peers do not try it in clear"
        with entered(pod.netns), IPRoute() as ip, node.open("rb") as host:
            # ip link add eth0 type veth peer name IFNAME netns NODE: both ends down, no address
            ip.link(
                "add", ifname="eth0", kind="veth", peer={"ifname": pod.ifname, "net_ns_fd": host.fileno()}
            )
        until(lambda: "captured and closed" in waiting(world, pod.key).get("reason", ""), "it is closed")
        with entered(pod.netns), IPRoute() as ip:
            ip.link("del", ifname="eth0")
        until(lambda: "not there" in waiting(world, pod.key).get("reason", ""), "it is gone again")
        wire(world, pod)
        wait_until_back(world, pod)
        with pytest.raises(OSError):
            live.say()
        assert_in_mesh(world, pod)
    texts = [event["text"] for event in world.status("node-a")["history"] if event["pod"] == pod.key]
    assert any("is gone" in text for text in texts) and any("and is closed" in text for text in texts)
    assert world.is_served("client-b", world.address("server-a"))


def test_a_pod_that_comes_back_in_a_new_namespace_under_its_path_is_served(world: World) -> None:
    pod = world.pod("client-a")
    with watched(world, pod):
        netns.remove(pod.netns.name)
        until(lambda: waiting(world, pod.key).get("missing") == "namespace", "its namespace is missed")
        renew(world, pod)
        wire(world, pod)
        wait_until_back(world, pod)
        assert_in_mesh(world, pod)


def test_another_pod_under_that_path_stays_closed(world: World) -> None:
    """The path is the wish's, but what is there has addresses that are not the pod's."""
    pod = world.pod("client-a")
    other = PodPlace("demo", "x", pod.node, pod.netns, pod.ifname, world.pod("spare-a").addresses)
    unwire(world, world.pod("spare-a"))
    renew(world, pod)
    try:
        wire(world, other)
        found = until(
            lambda: w if (w := waiting(world, pod.key)).get("missing") == "address" else {}, "it is judged"
        )
        assert "the control plane lists 10.77.1.11" in found["reason"]
        assert not is_served_soon(world, "client-a")
    finally:
        renew(world, pod)
        wire(world, pod)
        wire(world, world.pod("spare-a"))
    wait_until_back(world, pod)


def test_a_path_that_is_unmounted_leaves_a_pod_with_processes_in_the_mesh(world: World) -> None:
    pod = world.pod("client-a")
    with entered(pod.netns):
        process = subprocess.Popen(["sleep", "60"])
    try:
        netns.remove(pod.netns.name)
        log = world.log("node-a")
        with entered(Path(f"/proc/{process.pid}/ns/net")):
            talk = Talk(socket.create_connection((world.address("server-b"), PORT), PATIENCE_S))
        with talk:
            talk.say()
            own = talk.address
        log.line('direction="outbound"', f"src.addr={own}", ":15008")
        assert row(world, pod) and not waiting(world, pod.key)
        unwire(world, pod)
        until(lambda: waiting(world, pod.key), "its interface is missed")
        wire(world, dataclasses.replace(pod, netns=Path(f"/proc/{process.pid}/ns/net")))
        wait_until_back(world, pod, "it is found by its namespace, which has no name")
    finally:
        process.kill()
        process.wait()
        renew(world, pod)
        until(lambda: waiting(world, pod.key), "its interface is gone with the namespace")
        wire(world, pod)
        wait_until_back(world, pod)


def test_the_former_namespace_of_a_path_stays_closed_while_its_processes_live(world: World) -> None:
    pod = world.pod("client-a")
    again = dataclasses.replace(pod, ifname="pod-again")
    with entered(pod.netns):
        process = subprocess.Popen(["sleep", "60"])
    former = Path(f"/proc/{process.pid}/ns/net")
    try:
        netns.remove(pod.netns.name)
        netns.ensure(pod.netns.name)
        with entered(world.node(pod.node).netns), IPRoute() as ip:
            for address in pod.addresses:
                # ip route del ADDRESS: it is the new one's now
                scope = {"scope": "link"} if address.version == 4 else {}
                ip.route("del", dst=f"{address}/{address.max_prefixlen}", **scope)
        wire(world, again)
        until(lambda: row(world, pod).get("interface") == again.ifname, "the new one is served")
        assert_in_mesh(world, pod)
        with entered(former), pytest.raises(OSError):
            Talk(socket.create_connection((world.address("outsider-b"), PORT), SILENCE_S)).say()
    finally:
        process.kill()
        process.wait()
        until(lambda: not has_interface(world, pod), "the former namespace is gone")
        unwire(world, again)
        wire(world, pod)
    wait_until_back(world, pod)


def test_a_wish_by_interface_is_found_by_its_name_and_one_by_process_ends_with_it(world: World) -> None:
    pod = world.pod("spare-a")
    with entered(pod.netns):
        process = subprocess.Popen(["sleep", "60"])
    try:
        for where in ({"ifname": pod.ifname}, {"pid": process.pid}, {"netns": f"/proc/{process.pid}/ns/net"}):
            body = {"namespace": pod.namespace, "name": pod.name, **where}
            world.mesh.ask("node-a", "POST", "/enroll", body)
            unwire(world, pod)
            until(lambda: waiting(world, pod.key), "the pod is waited for")
            wire(world, pod)
            wait_until_back(world, pod, f"the pod is found again by {where}")
        process.kill()
        process.wait()
        assert row(world, pod), "the namespace is still there, and the interface in it"
        unwire(world, pod)
        until(lambda: pod.key not in str(world.status("node-a") | {"history": []}), "the wish ends")
        with pytest.raises(AgentRefused, match="not enrolled here"):
            world.mesh.unenroll(pod)
    finally:
        process.kill()
        process.wait()
        wire(world, pod)
    assert world.is_served("spare-a", world.address("outsider-b"))


def test_a_wish_ends_also_while_its_pod_is_away(world: World) -> None:
    pod = world.pod("spare-a")
    world.mesh.enroll(pod)
    unwire(world, pod)
    until(lambda: waiting(world, pod.key), "the pod is waited for")
    shown = world.cli("status", "-o", "table", node="node-a")
    assert shown.returncode == 3
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith(pod.key)]
    assert f"namespace {pod.netns}" in line and "  interface  " in line and "not there" in line
    done = world.cli("unenroll", pod.key, node="node-a")
    assert (done.returncode, done.stdout) == (0, f"un-enrolled {pod.key}\n")
    wire(world, pod)
    assert not waiting(world, pod.key) and not row(world, pod)
    assert world.is_served("spare-a", world.address("outsider-b"))


def test_the_next_agent_finds_a_pod_whose_interface_was_made_again_meanwhile(world: World) -> None:
    pod = world.pod("client-a")
    world.kill_control("node-a")
    unwire(world, pod)
    wire(world, pod)
    world.restart("node-a")
    wait_until_back(world, pod)
    assert_in_mesh(world, pod)
    texts = [event["text"] for event in world.status("node-a")["history"] if event["pod"] == pod.key]
    assert any("was open before this agent saw it" in text for text in texts)


def test_without_its_wish_a_captured_interface_is_nobodys(world: World) -> None:
    """The pins know its addresses; they alone do not make it a pod."""
    pod = world.pod("client-a")
    file = world.mesh.run_dir("node-a") / "wishes.json"
    world.kill_control("node-a")
    kept = file.read_text()
    file.unlink()
    world.mesh.start_agent(world.node("node-a"))
    try:
        found = until(lambda: agent_waits(world), "the agent says what it does not know")
        assert {each["missing"] for each in found} == {"pod"} and len(found) == 2
        assert not is_served_soon(world, "client-a")
    finally:
        world.kill_control("node-a")
        file.write_text(kept)
        world.restart("node-a")
    assert_in_mesh(world, pod)


def agent_waits(world: World) -> list[dict[str, Any]]:
    try:
        return [row for row in world.status("node-a")["waiting"] if row["missing"] == "pod"]
    except Exception:
        return []
