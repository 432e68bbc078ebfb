"""Two networks on loopback: a client's node in one, a gateway and a server's node in the other.

The gateway is a pod of an agent of its own, whose application passes bytes on to the tunnel port of the server, as
east-west gateways do. Nothing else leads from the one network into the other.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from agent.model.workload import Locality
from agent.state.apply import Batch
from tests.support import mesh
from tests.support.certs import TestCA
from tests.support.datapath import DataPath, Driver
from tests.support.loopback import ours

CLIENT, GATEWAY, SERVER, VIP = ours("1.1"), ours("3.1"), ours("2.1"), ours("9.9")
FAR = "n2"
FORWARDS = 9000
HOST = "web.apps.svc.cluster.local"


class Forwarder:
    """The application of the gateway: every connection is one to the target. `heard` has what came from clients."""

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self._listener = socket.create_server(listen)
        self._target = target
        self._open: list[socket.socket] = []
        self.heard: list[bytearray] = []
        threading.Thread(target=self._run, daemon=True).start()

    def cut(self) -> None:
        """End all connections."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            self.heard.append(bytearray())
            threading.Thread(target=self._pass, args=(near, far, self.heard[-1]), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket, heard: bytearray) -> None:
        with near, far:
            back = threading.Thread(target=self._carry, args=(far, near, bytearray()), daemon=True)
            back.start()
            self._carry(near, far, heard)
            back.join()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, heard: bytearray) -> None:
        try:
            while data := source.recv(65536):
                heard += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # What broke here breaks there: nothing is left to carry.
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


class World:
    """`here` with the client's pod, `gate` with the gateway's, `there` with the server's and its echo application."""

    def __init__(self, server_names: tuple[str, ...] = ("spiffe://cluster.local/ns/apps/sa/server",)) -> None:
        self.driver = Driver()
        self.ca = TestCA()
        loop = self.driver.loop
        self.here = DataPath(loop, self.ca, crl_path="/of-the-test")
        self.gate = DataPath(loop, self.ca, network=FAR)
        self.there = DataPath(loop, self.ca, network=FAR)
        self.planes = (self.here, self.gate, self.there)
        self.forwarder = Forwarder((GATEWAY, FORWARDS), (SERVER, 15008))
        self.app = socket.create_server((SERVER, 8080))
        self.seen: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()
        self.client = mesh.workload(
            "client", CLIENT, service_account="client", workload_name="client", cluster_id="near"
        )
        self.server = mesh.workload(
            "server",
            SERVER,
            network=FAR,
            service_account="server",
            workload_name="far-server",
            cluster_id="far",
            locality=Locality("east", "e1", ""),
            services={"web": {80: 8080}},
        )
        self.web = mesh.service("web", VIP, subject_alt_names=server_names)

    def start(self, gateway: tuple[str, int] = (GATEWAY, 15008)) -> None:
        """`gateway`: where the gateway's tunnel port is, where that is not the agent's of `gate`."""
        host, port = gateway
        known = mesh.workload("gw", host, network=FAR, service_account="gw")
        # As the client's side is told of it: without an address.
        remote = mesh.workload(
            "remote", network=FAR, network_gateway=mesh.gateway(f"{FAR}/{host}", port), services={"web": {}}
        )
        passing = mesh.workload(
            "gw", GATEWAY, network=FAR, service_account="gw", services={"web": {80: FORWARDS}}
        )
        far_web = mesh.service("web", f"{FAR}/{VIP}")

        def build() -> None:
            self.here.know(self.client, known, remote, self.web)
            self.gate.know(passing, far_web)
            self.there.know(self.server, far_web)
            for plane, pod in zip(self.planes, (self.client, passing, self.server), strict=True):
                plane.add_pod(pod)

        self.driver.call(build)

    def connect(self) -> socket.socket:
        app = self.driver.call(lambda: self.here.capture(CLIENT, mesh.at(f"{VIP}:80")))
        assert isinstance(app, socket.socket)
        app.settimeout(20)
        return app

    def put_policy(self, name: str, policy: object) -> None:
        """At the server."""
        self.driver.call(lambda: self.there.store.apply(Batch(authorizations=((name, policy),))))  # type: ignore[arg-type]

    def until_logged(self, plane: DataPath) -> str:
        self.driver.until(lambda: bool(plane.lines))
        return plane.lines[0]

    def close(self) -> None:
        self.driver.call(lambda: [plane.close() for plane in self.planes])
        self.driver.call(lambda: None)
        self.driver.close()
        self.forwarder.close()
        self.app.shutdown(socket.SHUT_RDWR)
        self.app.close()
        assert not self.driver.crashes, self.driver.crashes

    def _serve(self) -> None:
        while True:
            try:
                connection, peer = self.app.accept()
            except OSError:
                return
            self.seen.append(peer[0])
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)


@contextlib.contextmanager
def running(server_names: tuple[str, ...] | None = None) -> Iterator[World]:
    """All nodes started; nothing of them is left behind."""
    made = World() if server_names is None else World(server_names)
    try:
        made.start()
        yield made
    finally:
        made.close()
