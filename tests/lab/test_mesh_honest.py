"""Honest connects (`--honest-connect=all`): connect() says what is so, of pods and of those that dial them in clear."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from redirect.netns import entered
from tests.support.honest import CLOSED, fates, held, honest_mesh, waiting
from tests.support.labmesh import (
    PORT,
    VIP4,
    VIP6,
    World,
    policy_manifest,
    principal,
    running,
    service_manifest,
)
from tests.support.labtraffic import PATIENCE_S, Talk, until

pytestmark = pytest.mark.kernel
PEERS = (("client-a", "server-b"), ("client-a", "server-a"))
"""Across nodes, and inside of one."""
EMPTY_VIP = "10.96.77.99"
MPTCP = 262
TCP_FASTOPEN_NO_COOKIE = 34


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with honest_mesh(tmp_path_factory.mktemp("honest")) as made:
        yield made


# -- what is not there


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("client, server", PEERS)
def test_a_closed_port_refuses(world: World, client: str, server: str, version: int) -> None:
    address = world.address(server, version)
    before = held(world)
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            world.dial(client, address, CLOSED)
    assert held(world) >= before + 5
    until(lambda: not waiting(world), "nothing is held any more")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("dialer", ["outsider-a", "outsider-b"])
def test_a_closed_port_refuses_those_outside_of_the_mesh(world: World, dialer: str, version: int) -> None:
    """As health checks of a load balancer are: plaintext, held on its way into the pod."""
    before = held(world, program="to_pod")
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            world.dial(dialer, world.address("server-a", version), CLOSED)
    assert held(world, program="to_pod") >= before + 5


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_port_that_a_service_does_not_have_refuses(world: World, vip: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        world.dial("client-a", vip, 81)
    assert world.is_served("client-a", vip) is False
    with world.talk("client-a", vip, 80) as talk:
        talk.say()


def test_a_service_without_endpoints_refuses(world: World) -> None:
    def is_refused() -> bool:
        try:
            world.dial("client-a", EMPTY_VIP, 80, 1.0).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # not announced yet: there is no such address
        return False

    with world.manifest("empty", service_manifest("empty", "app: nobody", EMPTY_VIP)):
        until(is_refused, "the Service that nobody is behind refuses")


@pytest.mark.parametrize("client, server", [*PEERS, ("outsider-b", "server-a")])
def test_who_is_denied_by_policy_is_refused(world: World, client: str, server: str) -> None:
    address = world.address(server)

    def outcome() -> str:
        try:
            with world.talk(client, address) as talk:
                talk.say()
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return repr(error)
        return "served"

    with world.manifest("policy", policy_manifest("test", principal("nobody"))):
        until(lambda: outcome() == "refused", "the policy refuses connections")
        assert [outcome() for _ in range(3)] == ["refused"] * 3
    until(lambda: outcome() == "served", "the mesh is open again")


def test_a_destination_that_is_silent_is_silent(world: World) -> None:
    """As without a mesh: no answer of ours takes the place of one that does not come."""
    before = fates(world, "silent")
    with entered(world.pod("client-a").netns):
        sock = socket.socket()
    with sock:
        sock.settimeout(5.0)
        with pytest.raises(TimeoutError):
            sock.connect(("192.0.2.1", 80))
    until(lambda: fates(world, "silent") > before, "its dial ends by its time-out")
    until(lambda: not waiting(world), "nothing is held any more")


# -- what clients make of it


def test_a_client_with_several_hosts_goes_on_to_the_next(world: World) -> None:
    """As libpq and the drivers of other databases do: the first that connect() succeeds for is taken."""
    hosts = [(world.address("server-a"), CLOSED), (VIP4, 81), (world.address("server-b"), PORT)]
    for host, port in hosts:
        try:
            sock = world.dial("client-a", host, port)
        except ConnectionRefusedError:
            continue
        break
    with Talk(sock) as talk:
        assert talk.say()["server"].startswith(world.address("server-b"))


@pytest.mark.skipif(shutil.which("nc") is None, reason="there is no nc on this machine")
def test_nc_says_which_port_is_open(world: World) -> None:
    def nc(port: int) -> int:
        with entered(world.pod("client-a").netns):
            return subprocess.run(
                ["nc", "-z", "-w", "5", world.address("server-b"), str(port)], check=False
            ).returncode

    assert (nc(PORT), nc(CLOSED)) == (0, 1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("client, server", PEERS)
def test_data_in_a_syn_is_answered_by_a_closed_and_by_an_open_port(
    world: World, client: str, server: str, version: int
) -> None:
    """TCP Fast Open without a cookie: the copy leaves the data out, and its client sends it again."""

    def fast(port: int) -> socket.socket:
        with entered(world.pod(client).netns):
            sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        sock.sendto(b"early\n", socket.MSG_FASTOPEN, (world.address(server, version), port))
        return sock

    with fast(CLOSED) as sock, pytest.raises(ConnectionRefusedError):
        sock.recv(1)
    with fast(PORT) as sock:
        assert b'"text": "early"' in sock.recv(4096)


@pytest.mark.parametrize("version", [4, 6])
def test_a_multipath_client_is_answered(world: World, version: int) -> None:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        socket.socket(family, socket.SOCK_STREAM, MPTCP).close()
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP (CONFIG_MPTCP): {error.strerror}")
    for port, expected in ((CLOSED, errno.ECONNREFUSED), (PORT, 0)):
        with entered(world.pod("client-a").netns):
            sock = socket.socket(family, socket.SOCK_STREAM, MPTCP)
        with sock:
            sock.settimeout(PATIENCE_S)
            assert sock.connect_ex((world.address("server-b", version), port)) == expected
            if not expected:
                sock.sendall(b"hello\n")
                assert b'"text": "hello"' in sock.recv(4096)


def test_both_ends_agree_on_options_as_without_a_gate(world: World) -> None:
    """What `ss -ti` shows of a client: scaling, timestamps, selective acknowledgement."""
    with world.talk("client-a", world.address("server-b")) as talk:
        talk.say()
        info = talk.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        options, scales = info[5], info[6]
        assert options & 0b111 == 0b111, "timestamps, SACK, window scaling"
        assert scales & 15 and scales >> 4


def test_what_status_and_maps_show(world: World) -> None:
    status = world.status("node-a")
    assert status["honest_connect"] == "all"
    assert all(pod["honest_connect"] for pod in status["pods"])
    listed = world.cli("maps", "list", node="node-a").stdout
    assert re.search(r"^rings +array_of_maps +2 +64$", listed, re.MULTILINE), listed
    assert re.search(r"^takers +sockmap +6 +192$", listed, re.MULTILINE), listed
    assert "HONEST" in world.cli("maps", "dump", "ifaces", node="node-a").stdout


def test_each_pod_has_what_was_asked_for_it(tmp_path: Path) -> None:
    """`--honest-connect=pods`: by `ztun enroll`, anew each time, and kept for the agent that comes after."""
    with running("i", tmp_path, flags={"honest-connect": "pods"}, enrolled=False) as world:

        def enroll(pod: str, *flags: str) -> None:
            where = str(world.pod(pod).netns)
            done = world.cli("enroll", f"demo/{pod}", "--netns", where, *flags, node=world.pod(pod).node)
            assert done.returncode == 0, done.stderr

        def end_of(client: str) -> type[OSError]:
            try:
                with world.dial(client, world.address("server-b"), CLOSED) as sock:
                    sock.recv(1)
            except OSError as error:
                return type(error)
            raise AssertionError("somebody serves a port that nobody has")

        enroll("server-b")
        enroll("server-a")
        enroll("client-a", "--honest-connect")
        world.mesh.wait_announced(*map(world.pod, ("server-b", "server-a", "client-a")))
        assert end_of("client-a") is ConnectionRefusedError
        assert end_of("server-a") is ConnectionResetError
        world.kill_control("node-a")
        world.restart("node-a")
        assert end_of("client-a") is ConnectionRefusedError
        enroll("client-a")
        assert end_of("client-a") is ConnectionResetError
        shown = {pod["pod"]: pod["honest_connect"] for pod in world.status("node-a")["pods"]}
        assert shown == {"demo/client-a": False, "demo/server-a": False}
