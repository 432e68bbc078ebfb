"""The DNS of a worker on loopback: pods that ask, and a name server that their queries are forwarded to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import dns.message

from agent.dns.mesh_names import MeshNames
from agent.model.address import IP, parse_ip
from agent.net.dial import Dialler
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.proxy.dns_service import DnsService
from agent.proxy.pods import LocalPod, LocalPods
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from tests.support import mesh
from tests.support.pod_dns import PodNameServer, Zone

POD, OTHER_POD, NOBODY = map(parse_ip, ("127.0.0.1", "127.0.0.2", "127.0.0.9"))
SERVER, PROXY = map(parse_ip, ("127.0.0.3", "127.0.0.8"))
PATIENCE_S = 20.0


def the_mesh(vip: str = "10.1.0.1") -> Snapshot:
    return mesh.snapshot(
        mesh.workload("client", str(POD), canonical_name="client", canonical_revision="v1"),
        mesh.workload("other", str(OTHER_POD), namespace="elsewhere"),
        mesh.service("web", vip),
        mesh.service("pair", "10.1.0.3", "10.1.0.4"),
    )


class Asking:
    """`service`, whose queries go to `server`. `passed_s` is added to its clock."""

    def __init__(self, server: PodNameServer, asked_at: int) -> None:
        self.server = server
        self.passed_s = 0.0
        self.errors: list[BaseException] = []
        self.loop = Loop(lambda: time.monotonic() + self.passed_s, lambda error, _: self.errors.append(error))
        self.store = Store(the_mesh())
        self.sockets = SideSockets(None)
        pods = LocalPods()
        pods.replace(
            [
                LocalPod("apps", "client", "default", (POD,)),
                LocalPod("elsewhere", "other", "default", (OTHER_POD,)),
            ]
        )
        self.service = DnsService(
            self.loop,
            self.store,
            pods,
            MeshNames("cluster.local"),
            Dialler(self.loop, self.sockets, lambda: 0, 5.0),
            self.sockets,
            {PROXY},
            Random(1),
            port=asked_at,
            is_nobodys=lambda ip: ip.is_multicast,
        )
        self.late: list[bytes] = []

    def take(
        self, query: bytes, *, client: IP = POD, server: IP = SERVER, over_tcp: bool = False
    ) -> bytes | None:
        """What is answered at once; the rest comes into `late`."""
        return self.service.take(client, server, query, self.late.append, over_tcp=over_tcp)

    def ask(
        self, name: str, kind: str = "A", *, client: IP = POD, server: IP = SERVER, over_tcp: bool = False
    ) -> dns.message.Message:
        """The answer, at once or late."""
        query = dns.message.make_query(name, kind, use_edns=False)
        answer = self.take(query.to_wire(), client=client, server=server, over_tcp=over_tcp)
        if answer is None:
            self.until(lambda: bool(self.late))
            answer = self.late.pop()
        found = dns.message.from_wire(answer)
        assert query.is_response(found)
        return found

    def until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s
            self.loop.turn(0.05)


@contextmanager
def asking(zone: Zone, asked_at: int = 0) -> Iterator[Asking]:
    """`asked_at`: another port than the server's."""
    with PodNameServer(None, zone, port=0) as server:
        made = Asking(server, asked_at or server.port)
        try:
            yield made
        finally:
            for under_way in made.service._under_way.values():
                if under_way.exchange is not None:
                    under_way.exchange.cancel()
            made.service.asking_ports.forget()
            made.loop.close()
            made.sockets.close()
    assert not made.errors
