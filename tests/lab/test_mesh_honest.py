"""Honest connects (`--honest-connect=all`): connect() says what is so, of pods and of those that dial them in clear."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from redirect.netns import entered
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
from tests.support.ongoing import New
from tests.support.syns import SynGun

pytestmark = pytest.mark.kernel
CLOSED = 9
PEERS = (("client-a", "server-b"), ("client-a", "server-a"))
"""Across nodes, and inside of one."""
EMPTY_VIP = "10.96.77.99"
MPTCP = 262
TCP_FASTOPEN_NO_COOKIE = 34


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    flags = {"honest-connect": "all", "workers": "2", "connect-timeout-s": "4"}
    with running("h", tmp_path_factory.mktemp("honest"), flags=flags) as made:
        yield made


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    """Processes that do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Connecting:
    """A connect() in a thread of its own. `answer` is its error number, 0 for none."""

    def __init__(self, world: World, client: str, host: str, port: int = PORT, source_port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with entered(world.place(client).netns):
            self.sock = socket.socket(family)
        if source_port:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.bind((world.address(client, 6 if ":" in host else 4), source_port))
        self.sock.settimeout(30)
        self.answer: int | None = None
        self._thread = threading.Thread(target=self._run, args=((host, port),))
        self._thread.start()

    def _run(self, target: tuple[str, int]) -> None:
        try:
            self.answer = self.sock.connect_ex(target)
        except TimeoutError:
            self.answer = errno.ETIMEDOUT

    def __enter__(self) -> Connecting:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self.sock.close()

    def ended(self) -> int:
        self._thread.join(40)
        assert self.answer is not None, "it goes on"
        return self.answer


def fates(world: World, fate: str, node: str = "node-a", direction: str = "outbound") -> float:
    return world.metric(node, "ztun_held_syns_ended_total", direction=direction, fate=fate)


def waiting(world: World, node: str = "node-a", direction: str = "outbound") -> float:
    return world.metric(node, "ztun_held_syns", direction=direction)


def held(world: World, node: str = "node-a", program: str = "from_pod") -> int:
    """SYNs that the kernel has held there, those that came again too."""
    return world.counters(node).get((program, "SYN_HELD"), 0)


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


# -- while it is pending


def test_a_pending_connect_is_one_dial_however_often_its_syn_comes(world: World) -> None:
    application = world.application("server-b")
    world.ask("client-a", world.address("server-b"))
    peers = world.workers("node-b").values()
    count, seen = len(application.clients), held(world)
    with standing_still(*peers), Connecting(world, "client-a", world.address("server-b")) as connecting:
        until(lambda: held(world) >= seen + 2, "the SYN comes again")
        until(lambda: waiting(world) == 1, "and waits in the place of the first")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        assert connecting.ended() == 0
        with Talk(connecting.sock) as talk:
            talk.say()
    assert len(application.clients) == count + 1
    until(lambda: not waiting(world), "nothing is held any more")


def test_a_client_that_begins_anew_on_its_tuple_is_answered_by_its_newest_syn(world: World) -> None:
    world.ask("client-a", world.address("server-b"))
    peers, address = world.workers("node-b").values(), world.address("server-b")
    seen = held(world)
    with standing_still(*peers), ExitStack() as stack:
        with entered(world.pod("client-a").netns):
            first = socket.socket()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind((world.address("client-a"), 33333))
        first.setblocking(False)
        assert first.connect_ex((address, PORT)) == errno.EINPROGRESS
        until(lambda: held(world) > seen, "its SYN is held")
        first.close()
        seen = held(world)
        again = stack.enter_context(Connecting(world, "client-a", address, source_port=33333))
        until(lambda: held(world) > seen, "that of the next one, too")
        until(lambda: waiting(world) == 1, "in the place of the first")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        assert again.ended() == 0
        with Talk(again.sock) as talk:
            talk.say()


def test_a_syn_that_is_let_by_joins_the_dial_that_is_pending(world: World) -> None:
    """Its repetition found no ring: its connection is accepted early, and there is still one dial."""
    application, address = world.application("server-b"), world.address("server-b")
    world.ask("client-a", address)
    count, before = len(application.clients), fates(world, "joined")
    peers, seen = world.workers("node-b").values(), held(world)
    with standing_still(*peers), Connecting(world, "client-a", address) as connecting:
        until(lambda: held(world) > seen, "its SYN is held")
        with world.without_rings("node-a"):
            assert connecting.ended() == 0, "accepted, as without a gate"
        until(lambda: fates(world, "joined") > before, "and joined with its dial")
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        with Talk(connecting.sock) as talk:
            talk.say()
    assert len(application.clients) == count + 1


def test_a_client_that_is_gone_costs_a_dial_and_nothing_that_stays(world: World) -> None:
    application, address = world.application("server-b"), world.address("server-b")
    count, before = len(application.clients), fates(world, "given_up")
    with SynGun(world.pod("client-a")) as gun:
        gun.send(world.address("client-a"), 44444, address, PORT)
        until(lambda: len(application.clients) > count, "its destination was reached")
        until(lambda: fates(world, "given_up") > before, "and is let go", 8.0)
    until(lambda: not waiting(world), "nothing is held any more")
    until(lambda: not world.mesh.ask("node-a", "GET", "/connections"), "nor relayed")


def test_a_policy_that_comes_while_a_connect_is_pending_refuses_it(world: World) -> None:
    """Inside of a node, on its way into the pod: the application's dial hangs, as its accept queue is full."""
    pod = world.pod("server-a")
    with entered(pod.netns):
        deaf = socket.socket()
    with ExitStack() as stack:
        stack.enter_context(deaf)
        deaf.bind((world.address("server-a"), 7777))
        deaf.listen(0)
        with entered(pod.netns):
            for _ in range(2):
                full = stack.enter_context(socket.socket())
                full.setblocking(False)
                full.connect_ex((world.address("server-a"), 7777))
        connecting = stack.enter_context(Connecting(world, "outsider-b", world.address("server-a"), 7777))
        until(lambda: waiting(world, direction="inbound") == 1, "its SYN is held")
        with world.manifest("policy", policy_manifest("test", principal("nobody"))):
            assert connecting.ended() == errno.ECONNREFUSED
    until(lambda: world.is_served("outsider-b", world.address("server-a")), "the mesh is open again")


def test_a_pod_that_is_let_go_has_its_pending_connects_refused_or_answered_by_their_destination(
    world: World,
) -> None:
    world.ask("client-a", world.address("server-b"))
    peers, seen = world.workers("node-b").values(), held(world)
    try:
        with standing_still(*peers), Connecting(world, "client-a", world.address("server-b")) as connecting:
            until(lambda: held(world) > seen, "its SYN is held")
            world.mesh.unenroll(world.pod("client-a"))
            until(lambda: not waiting(world), "nothing is held any more")
            for pid in peers:
                os.kill(pid, signal.SIGCONT)
            # The reset may still get through while the pod drains; else its next SYN goes past the mesh.
            assert connecting.ended() in (0, errno.ECONNREFUSED)
    finally:
        world.mesh.enroll(world.pod("client-a"))
        world.mesh.wait_announced(world.pod("client-a"))
    assert world.is_served("client-a", world.address("server-b"))


# -- what happens to workers


def test_a_worker_that_is_killed_costs_a_pending_connect_its_next_syn(world: World) -> None:
    world.ask("client-a", world.address("server-b"))
    peers, seen = world.workers("node-b").values(), held(world)
    with standing_still(*peers), Connecting(world, "client-a", world.address("server-b")) as connecting:
        until(lambda: held(world) > seen, "its SYN is held")
        former = world.workers("node-a").values()
        world.kill(*former)
        for pid in peers:
            os.kill(pid, signal.SIGCONT)
        assert connecting.ended() == 0
        with Talk(connecting.sock) as talk:
            talk.say()
    until(lambda: len(set(world.workers("node-a").values()) - set(former)) == 2, "two others are there")
    world.mesh.wait_ready("node-a")


def test_while_workers_come_and_go_nobody_is_refused(world: World) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(New(world, "client-a", world.address("server-b"))) for _ in range(3)]
        for each in crowd:
            each.goes_on()
        for _ in range(2):
            pid = world.workers("node-a")[0]
            os.kill(pid, signal.SIGTERM)
            until(lambda pid=pid: world.workers("node-a").get(0) not in (None, pid), "its successor is there")
            for each in crowd:
                each.goes_on()
    assert not [failure for each in crowd for failure in each.failures]
    world.mesh.wait_ready("node-a")


def test_while_a_worker_hangs_others_answer_and_it_comes_back(world: World) -> None:
    """The stall is seen in its ring; the other worker has its share alone until it has come round."""
    log = world.log("node-a")
    address = world.address("server-b")
    world.ask("client-a", address)
    before = fates(world, "given_up")
    pid = world.workers("node-a")[0]
    with standing_still(pid):
        with ExitStack() as stack:
            crowd = [stack.enter_context(Connecting(world, "client-a", address)) for _ in range(8)]
            assert [each.ended() for each in crowd] == [0] * 8
        log.line("connections wait at the listeners of worker 0")
        for _ in range(8):
            with pytest.raises(ConnectionRefusedError):
                world.dial("client-a", address, CLOSED)
    log.line("has come round: it serves its listeners again")
    for _ in range(16):
        assert world.is_served("client-a", address)
    until(lambda: not waiting(world), "nothing is held any more")
    # Those that it had already taken may have been answered by the other; no more than one a client.
    assert fates(world, "given_up") - before <= 8
    world.mesh.wait_ready("node-a")


def test_a_control_process_that_starts_again_finds_rings_and_workers(world: World) -> None:
    former = world.workers("node-a")
    with New(world, "client-a", world.address("server-b")) as ongoing:
        ongoing.goes_on()
        world.kill_control("node-a")
        ongoing.goes_on()
        with pytest.raises(ConnectionRefusedError):
            world.dial("client-a", world.address("server-b"), CLOSED)
        world.restart("node-a")
        ongoing.goes_on()
    assert world.workers("node-a") == former
    seen = held(world)
    with pytest.raises(ConnectionRefusedError):
        world.dial("client-a", world.address("server-b"), CLOSED)
    assert held(world) > seen


def test_without_rings_it_is_as_without_the_option(world: World) -> None:
    full = world.counters("node-a").get(("from_pod", "SYN_RING_FULL"), 0)
    with world.without_rings("node-a"):
        assert world.is_served("client-a", world.address("server-b"))
        with (
            world.dial("client-a", world.address("server-b"), CLOSED) as sock,
            pytest.raises(ConnectionResetError),
        ):
            sock.recv(1)
    assert world.counters("node-a")[("from_pod", "SYN_RING_FULL")] >= full + 2
    with pytest.raises(ConnectionRefusedError):
        world.dial("client-a", world.address("server-b"), CLOSED)


# -- floods


@pytest.mark.parametrize("target", ["closed", "open", "silent"])
def test_a_pod_that_floods_does_not_hurt_its_neighbour(world: World, target: str) -> None:
    host, port = {
        "closed": (world.address("server-b"), CLOSED),
        "open": (world.address("server-b"), PORT),
        "silent": ("192.0.2.1", 80),
    }[target]
    server = world.address("server-b")
    with SynGun(world.pod("client-a")) as gun:
        flood = threading.Thread(target=gun.flood, args=(world.address("client-a"), host, port, 20000, 3.0))
        flood.start()
        failures, asked = [], 0
        while flood.is_alive():
            asked += 1
            try:
                world.ask("server-a", server)
            except OSError as error:
                failures.append(repr(error))
        flood.join()
    assert asked and not failures
    until(lambda: not waiting(world), "nothing is held any more", 20.0)
    world.mesh.wait_ready("node-a")


def test_what_status_and_maps_show(world: World) -> None:
    status = world.status("node-a")
    assert status["honest_connect"] == "all"
    assert all(pod["honest_connect"] for pod in status["pods"])
    listed = world.cli("maps", "list", node="node-a").stdout
    assert re.search(r"^rings +array_of_maps +2 +64$", listed, re.MULTILINE), listed
    assert re.search(r"^takers +sockmap +4 +128$", listed, re.MULTILINE), listed
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
