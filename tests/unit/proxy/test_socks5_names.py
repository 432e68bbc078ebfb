"""Names that SOCKS5 clients ask for: those of the mesh, else asked of name servers one after the other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.dns.name_servers import name_servers, said_in
from agent.model.address import IP, parse_ip
from agent.proxy.socks5_names import LIMIT_S, NEXT_S, Lookup
from tests.support.dns_service import NOBODY, POD, PROXY, SERVER, Asking, asking

SILENT = parse_ip("127.0.0.5")

ZONE = {
    ("far.test.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("six.test.", "AAAA"): ["2001:db8::1"],
    ("text.test.", "TXT"): ['"nothing else"'],
}


@pytest.fixture(scope="module")
def pod() -> Iterator[Asking]:
    with asking(ZONE) as made:
        yield made


def looked_up(
    pod: Asking, name: str, servers: Sequence[IP] = (SERVER,), versions: Sequence[int] = (4, 6)
) -> tuple[str, str]:
    ends: list[tuple[IP | None, str]] = []
    lookup = Lookup(pod.service, POD, name, versions, servers, lambda ip, why: ends.append((ip, why)))
    lookup.start()
    pod.until(lambda: bool(ends))
    ((ip, why),) = ends
    return str(ip or ""), why


def test_names_of_the_mesh_need_no_server(pod: Asking) -> None:
    before = len(pod.server.asked)
    for name in ("web", "web.apps", "WEB.apps.svc.cluster.local", "web.apps.svc.cluster.local."):
        assert looked_up(pod, name, servers=()) == ("10.1.0.1", "")
        assert looked_up(pod, name, versions=(6, 4)) == ("10.1.0.1", "")
    assert len(pod.server.asked) == before


def test_other_names_are_asked_of_a_server(pod: Asking) -> None:
    assert looked_up(pod, "far.test")[0] in ("192.0.2.1", "192.0.2.2")
    assert looked_up(pod, "six.test") == ("2001:db8::1", "")
    assert looked_up(pod, "far.test", versions=(6,)) == ("", "far.test has no address")
    assert looked_up(pod, "text.test") == ("", "text.test has no address")
    assert looked_up(pod, "nowhere.test") == ("", "nowhere.test does not exist")


def test_the_next_server_is_asked_where_one_fails_and_no_other(pod: Asking) -> None:
    assert looked_up(pod, "far.test", servers=(PROXY, SERVER))[0]
    before = len(pod.server.asked)
    assert (
        looked_up(pod, "never.test", servers=(SERVER, parse_ip("127.0.0.4")))[1]
        == "never.test does not exist"
    )
    assert len(pod.server.asked) == before + 2, "one for each family"


@pytest.mark.parametrize(
    "name, servers, why",
    [
        ("far.test", (), "the node has no name server to ask"),
        ("far.test", (PROXY,), "its name servers fail"),
        ("x" * 64, (SERVER,), "is no name that can be looked up"),
        ("a..b", (SERVER,), "is no name that can be looked up"),
    ],
    ids=["none", "unfit", "label", "empty"],
)
def test_what_cannot_be_found_says_why(pod: Asking, name: str, servers: tuple[IP, ...], why: str) -> None:
    found = looked_up(pod, name, servers=servers)
    assert found[0] == "" and why in found[1]


class Two:
    """A server at SILENT that takes connections and says nothing, and one at SERVER that answers."""

    def __init__(self, pod: Asking, silent: socket.socket, server: socket.socket) -> None:
        self.pod, self.silent = pod, silent
        self.ends: list[str] = []
        self._server = server
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            try:
                connection, peer = self._server.accept()
            except OSError:
                return
            self.pod.server._serve(connection, peer)

    def look_up(self, name: str, *servers: IP) -> Lookup:
        def ended(ip: IP | None, why: str) -> None:
            self.ends.append(str(ip or why))

        made = Lookup(self.pod.service, POD, name, (4, 6), servers, ended)
        made.start()
        return made

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@pytest.fixture
def two() -> Iterator[Two]:
    with socket.create_server((str(SILENT), 0)) as silent:
        port = silent.getsockname()[1]
        with socket.create_server((str(SERVER), port)) as server, asking(ZONE, port) as pod:
            made = Two(pod, silent, server)
            try:
                yield made
            finally:
                made.close()


def test_one_that_says_nothing_holds_its_client_for_five_seconds_in_all(two: Two) -> None:
    two.look_up("far.test", SILENT)
    two.pod.passed_s = NEXT_S
    two.pod.until(lambda: two.pod.service.forwarded_now == 2)
    two.pod.passed_s = LIMIT_S - 0.1
    two.pod.loop.turn(0)
    two.pod.passed_s = LIMIT_S
    two.pod.until(lambda: bool(two.ends))
    assert two.ends == ["far.test is no name of the mesh, and its name servers fail (code 2)"]


def test_where_one_takes_its_time_the_next_is_asked_beside_it_and_first_from_then_on(two: Two) -> None:
    two.look_up("six.test", SILENT, SERVER)
    two.pod.until(lambda: two.pod.service.forwarded_now == 1)
    assert not two.pod.server.asked
    two.pod.passed_s = NEXT_S
    two.pod.until(lambda: bool(two.ends))
    assert two.ends == ["2001:db8::1"]
    assert [each.kind for each in two.pod.server.asked] == ["A", "AAAA"]
    assert two.pod.service.forwarded_now == 1, "the silent one was not asked for the other family"


def test_who_has_left_hears_nothing(two: Two) -> None:
    lookup = two.look_up("far.test", SILENT)
    lookup.cancel()
    two.pod.passed_s = LIMIT_S + 1
    two.pod.until(lambda: not two.pod.service.forwarded_now)
    assert not two.ends


def test_a_pod_that_nobody_knows_finds_nothing(pod: Asking) -> None:
    ends: list[str] = []
    Lookup(
        pod.service, NOBODY, "web.apps", (4,), (SERVER,), lambda ip, why: ends.append(f"{ip} {why}")
    ).start()
    assert len(ends) == 1 and ends[0].startswith("None")


def test_the_nodes_name_servers(tmp_path: Path) -> None:
    text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver x\nnameserver 2001:db8::1 \nnameserver"
    assert said_in(text) == (parse_ip("192.0.2.1"), parse_ip("2001:db8::1"))
    assert len(said_in("nameserver 192.0.2.1\n" * 5)) == 3
    assert name_servers(tmp_path / "none") == ()
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert name_servers(tmp_path / "resolv.conf") == (parse_ip("192.0.2.1"),)
