"""Policies that programs of the kernel deny by: a client sees what it would see of a worker, nobody else anything."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network

import pytest

from agent.cli.pinned import open_pinned
from redirect import sys_bpf
from redirect.denials import Denial, DenialKey
from redirect.layout import address_key, parse_ip
from redirect.maps import Maps
from redirect.pins import Pins
from tests.support.labglass import ztun
from tests.support.labmesh import World, policy_manifest
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel

HBONE = 15008
MOST = 400
"""SYNs until the program has had its samples: 64 of them, and ten a second."""
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: demo}
spec: {mtls: {mode: STRICT}}
"""


def blocks(*addresses: str) -> str:
    return policy_manifest(
        "blocks", f"[{{from: [{{source: {{ipBlocks: {list(addresses)}}}}}]}}]", action="DENY"
    )


def denied(world: World, node: str) -> int:
    return world.counters(node).get(("to_pod", "DENIED"), 0)


def set_of(world: World, node: str, address: str) -> object:
    """The number of the set by which programs judge an address; None: by none."""
    with open_pinned(world.mesh.instance(node), world.mesh.run_dir(node)) as maps:
        found = {str(key["address"]): value["set"] for key, value in maps["prefiltered"].entries()}
    return found.get(address)


def end_of(world: World, client: str, address: str) -> str:
    """What a client sees that connects and asks. A reset may come before connect() has returned."""
    try:
        with world.dial(client, address) as sock:
            sock.sendall(b"hello\n")
            return "served" if sock.recv(100) else "closed"
    except OSError as error:
        return type(error).__name__


@contextmanager
def in_force(world: World, name: str, text: str, node: str, address: str) -> Iterator[None]:
    """A policy that programs deny by, and until they do not any more."""
    with world.manifest(name, text):
        until(lambda: set_of(world, node, address) is not None, "programs judge by it")
        yield
    until(lambda: set_of(world, node, address) is None, "programs judge by nothing")


@pytest.mark.parametrize("version", [4, 6])
def test_strict_is_answered_by_programs_as_by_workers(world: World, version: int) -> None:
    address, log = world.address("server-a", version), world.log("node-a")
    with in_force(world, "strict", STRICT, "node-a", address):
        before, ends = denied(world, "node-a"), []
        while denied(world, "node-a") < before + 20:
            # Reset, not refused, whoever answers.
            ends.append(end_of(world, "outsider-b", address))
            assert len(ends) < MOST
        assert set(ends) <= {"ConnectionResetError", "BrokenPipeError"}
        assert world.is_served("client-b", address)
    until(lambda: world.is_served("outsider-b", address), "it is allowed again")
    counted = world.metric("node-a", "ztun_prefilter_denied_total")
    assert 20 <= counted <= denied(world, "node-a")
    # Those that went to a worker are in the access log, as ever.
    log.line('direction="inbound"', "POLICY_DENIED", address)


def test_a_source_that_is_denied_whoever_it_is_is_refused_at_the_tunnel_port(world: World) -> None:
    address, other = world.address("server-a"), world.address("outsider-b")
    with in_force(world, "blocks", blocks(other), "node-a", address):
        connected = 0
        with ExitStack() as stack, pytest.raises(ConnectionRefusedError):
            for _ in range(MOST):
                stack.enter_context(world.dial("outsider-b", address, HBONE))
                connected += 1
        # A stranger's SYNs are not dropped before it is seen who they are of.
        assert connected >= 64
        assert world.is_served("client-b", address)


def test_nobody_who_is_allowed_is_refused_while_policies_change_and_nobody_denied_is_let_in(
    world: World,
) -> None:
    """The allowed and the denied one dial all the while; what changes is about others."""
    address, bad = world.address("server-a"), world.address("outsider-b")
    ends: dict[str, list[str]] = {"outsider-a": [], "outsider-b": []}
    stop = threading.Event()

    def dial(client: str) -> None:
        while not stop.is_set():
            ends[client].append(end_of(world, client, address))

    threads = [threading.Thread(target=dial, args=(client,)) for client in ends]
    with in_force(world, "blocks", blocks(bad), "node-a", address):
        for thread in threads:
            thread.start()
        try:
            seen = {set_of(world, "node-a", address)}
            path = world.mesh.manifests / "blocks.yaml"
            for number in range(6):
                others = [f"192.0.2.{number}", f"10.99.{number}.0/24"][: 1 + number % 2]
                world.write(path, blocks(bad, *others))
                until(lambda: set_of(world, "node-a", address) not in {None, *seen}, "the next set")
                seen.add(set_of(world, "node-a", address))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert set(ends["outsider-a"]) == {"served"}
    assert set(ends["outsider-b"]) <= {"ConnectionResetError", "BrokenPipeError"}


def test_what_somebody_else_changes_is_made_as_it_was(world: World) -> None:
    address, log = world.address("server-a"), world.log("node-a")
    key = address_key(parse_ip(address))
    with (
        in_force(world, "strict", STRICT, "node-a", address),
        Maps(Pins(world.mesh.instance("node-a"), world.mesh.run_dir("node-a")).generation) as maps,
    ):
        links, entries = maps.fds["prefiltered"], maps.fds["denials"]
        number = set_of(world, "node-a", address)
        assert isinstance(number, int)
        repaired = world.metric("node-a", "ztun_drift_repaired_total", part="prefilter")
        assert sys_bpf.map_delete(links, key)
        until(lambda: set_of(world, "node-a", address) == number, "it is judged again")
        # Somebody denies a peer at the tunnel port who is allowed: for two seconds at most.
        foreign = DenialKey.of(number, HBONE, ip_network(f"{world.address('client-b')}/32")).encode()
        sys_bpf.map_update(entries, foreign, Denial(is_denied=True).encode())
        until(lambda: sys_bpf.map_lookup(entries, foreign, Denial.FORMAT.size) is None, "nobody else denies")
        assert world.is_served("client-b", address)
        log.line("kernel: made as it was: prefiltered", address)
        assert world.metric("node-a", "ztun_drift_repaired_total", part="prefilter") >= repaired + 2
        done = ztun(world, "audit")
        assert done.exit_code == 0, done.output


def test_status_and_maps_show_what_programs_deny(world: World) -> None:
    address = world.address("server-a")
    assert world.status("node-a")["prefilter"]["addresses"] == 0
    with in_force(world, "strict", STRICT, "node-a", address):
        said = world.status("node-a")["prefilter"]
        assert said["is_on"] and said["addresses"] >= 2 and said["entries"] and not said["left_to_workers"]
        shown = world.cli("maps", "dump", "denials", node="node-a").stdout
        assert "others" in shown and "0.0.0.0/0" in shown
