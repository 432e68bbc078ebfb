"""Policies and limits dropped into the control plane's directory, and what they do to new and to live connections."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from agent.lab import probes
from agent.lab.firewall import Denied
from agent.model.limits import BYTES
from redirect.netns import entered
from tests.support.labmesh import PORT, SILENCE_S, World, policy_manifest, principal
from tests.support.labtraffic import PATIENCE_S, until, wait_gone

pytestmark = pytest.mark.kernel

PROMPT_S = 3.0
"""A change must be in force sooner; a second is what is promised, on a machine that does nothing else."""
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""


@contextmanager
def policy(world: World, rules: str, **fields: str) -> Iterator[None]:
    """The policy as long as the block; at its end the mesh is open again."""
    try:
        with world.manifest("policy", policy_manifest("test", rules, **fields)):
            yield
    finally:
        for client in ("client-a", "client-b"):
            for server in ("server-a", "server-b"):
                until(
                    lambda c=client, s=server: world.is_served(c, world.address(s)), "the mesh is open again"
                )


@pytest.mark.parametrize("server", ["server-a", "server-b"])
def test_a_policy_that_names_others_denies_the_next_and_ends_the_live(world: World, server: str) -> None:
    address = world.address(server)
    with world.talk("client-a", address) as live:
        live.say()
        log = world.log(f"node-{server[-1]}")
        with policy(world, principal("nobody")):
            until(live.is_ended, "the live connection ends", PROMPT_S)
            asked_by = world.log("node-a")
            assert not world.is_served("client-a", address)
            said = asked_by.line('direction="outbound"', f'dst.workload="{server}"', "error=")
            assert 'src.identity="spiffe://cluster.local/ns/demo/sa/client"' in said
            assert 'dst.identity="spiffe://cluster.local/ns/demo/sa/server"' in said
            line = log.line('direction="inbound"', "POLICY_DENIED", f'dst.workload="{server}"')
            assert "sa/client" in line
            log.line('direction="inbound"', "POLICY_CHANGED")


def test_a_policy_change_that_still_allows_leaves_the_live_connection_alone(world: World) -> None:
    """That the change is in force shows in another account's denial."""
    address = world.address("server-b")
    with world.talk("client-a", address) as live, world.talk("server-a", address) as other:
        live.say()
        other.say()
        with policy(world, principal("client")):
            until(other.is_ended, "the other account's connection ends", PROMPT_S)
            live.say()
            with world.manifest("second", policy_manifest("second", principal("client", "server"))):
                until(lambda: world.is_served("server-a", address), "the second policy allows it", PROMPT_S)
                live.say()
        live.say()


def test_a_port_may_be_denied_to_one_account_only(world: World) -> None:
    address = world.address("server-b")
    rules = principal("client").replace("}}]}]", '}}], to: [{operation: {ports: ["8080"]}}]}]')
    with policy(world, rules, action="DENY"):
        until(lambda: not world.is_served("client-b", address), "client is denied", PROMPT_S)
        assert world.is_served("server-a", address)


def test_plaintext_is_denied_by_strict_and_passes_without_it(world: World) -> None:
    address = world.address("server-b")
    with world.talk("outsider-a", address) as live:
        live.say()
        with world.manifest("strict", STRICT):
            until(live.is_ended, "the live plaintext connection ends", PROMPT_S)
            assert not world.is_served("outsider-a", address)
            assert world.is_served("client-a", address)
        until(lambda: world.is_served("outsider-a", address), "PERMISSIVE again", PROMPT_S)


def test_a_host_policy_between_two_pods_of_a_node_holds_for_the_tunnel(world: World) -> None:
    """NetworkPolicy is the host's: what FORWARD drops between the pods must not get there by the proxy."""
    pair = world.pod("client-b").address(4), world.pod("server-b").address(4)
    log = world.log("node-b")
    world.lab.deny_forward(Denied(*pair, 15008))
    try:
        seen = len(world.application("server-b").clients)
        with world.dial("client-b", str(pair[1])) as sock:
            sock.settimeout(SILENCE_S)
            sock.sendall(b"hello\n")
            with pytest.raises(TimeoutError):
                sock.recv(1)
        assert len(world.application("server-b").clients) == seen
        assert world.is_served("client-b", world.address("server-b", 6)), "IPv6 is not denied"
    finally:
        world.lab.allow_forward()
    until(lambda: world.is_served("client-b", str(pair[1])), "it passes again", 20.0)
    log.line('direction="outbound"', f"src.addr={pair[0]}")


def test_a_host_policy_on_the_real_port_holds_for_plaintext(world: World) -> None:
    address = world.address("server-a")
    assert world.is_served("outsider-a", address)
    world.lab.deny_forward(Denied(world.pod("outsider-a").address(4), world.pod("server-a").address(4), PORT))
    try:
        with pytest.raises(TimeoutError):
            world.dial("outsider-a", address, timeout_s=SILENCE_S)
    finally:
        world.lab.allow_forward()
    assert world.is_served("outsider-a", address)


LIMIT = """\
apiVersion: ztun.io/v1alpha1
kind: ConnectionLimit
metadata: {name: six, namespace: demo}
spec: {selector: {matchLabels: {app: server}}, connections: 6}
"""


def test_a_limit_is_of_one_identity_over_all_workers_and_what_a_killed_one_had_is_free(world: World) -> None:
    address = world.address("server-b")
    with ExitStack() as stack:
        talks = [stack.enter_context(world.talk("client-a", address)) for _ in range(6)]
        for talk in talks:
            talk.say()
        log = world.log("node-b")
        stack.enter_context(world.manifest("limit", LIMIT))
        until(lambda: not world.is_served("client-a", address), "the seventh is refused")
        assert not any(world.is_served(client, address) for client in ("client-a", "client-b") * 3)
        assert world.is_served("outsider-a", address), "another client"
        for talk in talks:
            talk.say()
        log.line('direction="inbound"', "LIMITED", "sa/client", "6 connections are open, as many as")
        until(lambda: world.metric("node-b", "ztun_limited_total", limit="connections") >= 7, "counted")
        assert "ConnectionLimit demo/six" in world.cli("limits", node="node-b").stdout
        first = world.workers("node-b")[0]
        os.kill(first, signal.SIGTERM)
        wait_gone(first)
        until(lambda: world.workers("node-b").get(0, first) != first, "its successor")
        assert not any(world.is_served("client-a", address) for _ in range(4)), "which has what it had"
        for talk in talks:
            talk.say()
        before = [talk for talk in talks if not talk.is_ended()]
        world.kill(world.workers("node-b")[0])
        until(lambda: any(talk.is_ended() for talk in talks), "what it had ends")
        left = [talk for talk in before if not talk.is_ended()]
        assert len(before) == 6 and 0 < len(left) < 6
        until(lambda: world.is_served("client-a", address), "there is room again")
        for talk in left:
            talk.say()
    until(lambda: world.is_served("client-a", address), "no limit is left")
    world.mesh.wait_ready("node-b")


PACED = """\
apiVersion: ztun.io/v1alpha1
kind: ConnectionLimit
metadata: {name: slow, namespace: demo}
spec:
  selector: {matchLabels: {app: server}}
  from: [{source: {principals: [cluster.local/ns/demo/sa/client]}}]
  bytesPerSecond: 300k
"""
BULK_PORT, BULK_BYTES = 8090, 600_000


def test_bytes_a_second_are_of_one_identity_in_both_directions_and_all_of_them_arrive(world: World) -> None:
    address = world.address("server-b")
    world.serve("server-b", "bulk", BULK_PORT)

    def exchange(client: str) -> dict[str, Any]:
        with entered(world.pod(client).netns):
            return probes.exchange(address, BULK_PORT, PATIENCE_S, BULK_BYTES, BULK_BYTES)

    def waits() -> float:
        return world.metric("node-b", "ztun_limited_total", limit=BYTES)

    with world.manifest("limit", PACED), ThreadPoolExecutor() as threads:
        until(
            lambda: "ConnectionLimit demo/slow" in world.cli("limits", node="node-b").stdout, "it is in force"
        )
        before = waits()
        paced = threads.submit(exchange, "client-a")
        until(lambda: waits() > before, "it waits")
        for _ in range(2):
            exchange("outsider-a")
        assert not paced.done(), "another client has carried twice as much meanwhile"
        assert paced.result()["received"] == BULK_BYTES, "every byte of both directions is the right one"
    world.mesh.wait_ready("node-b")
