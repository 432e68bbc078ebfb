"""Two nodes on loopback and what is between them: a client pod here, a server pod with an echo application there.

Each node is a whole data plane (`datapath`); one loop in a thread of its own drives both, while the test uses
blocking sockets as the pods' applications do.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator

from agent.state.apply import Batch
from tests.support import mesh
from tests.support.certs import TestCA
from tests.support.datapath import DataPath, Driver
from tests.support.loopback import ours

CLIENT, SERVER, VIP = ours("1.1"), ours("2.1"), ours("9.9")


class Broken(random.Random):
    """In place of a data plane's: a defect after a route was chosen, where a request gets the bytes of its trace."""

    def randbytes(self, n: int) -> bytes:
        raise KeyError("a defect")


class World:
    """Two nodes: `here` with the client pod, `there` with the server pod and its echo application."""

    def __init__(self, **options: str) -> None:
        self.driver = Driver()
        self.ca = TestCA()
        self.here = DataPath(self.driver.loop, self.ca, **options)
        self.there = DataPath(self.driver.loop, self.ca, **options)
        self.planes = [self.here, self.there]
        """All of them; a test may add some."""
        self.app = socket.create_server((SERVER, 8080))
        self.threads: list[threading.Thread] = []
        self.seen: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()
        self.client = mesh.workload("client", CLIENT, service_account="client")
        self.server = mesh.workload("server", SERVER, service_account="server", services={"web": {80: 8080}})
        self.web = mesh.service("web", VIP)

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
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def start(self) -> None:
        def build() -> None:
            for plane in (self.here, self.there):
                plane.know(self.client, self.server, self.web)
            self.here.add_pod(self.client)
            self.there.add_pod(self.server)

        self.driver.call(build)

    def connect(self, destination: str = f"{SERVER}:8080") -> socket.socket:
        app = self.driver.call(lambda: self.here.capture(CLIENT, mesh.at(destination)))
        assert isinstance(app, socket.socket)
        app.settimeout(5)
        return app

    def put_policy(self, name: str, policy: object) -> None:
        self.driver.call(lambda: self.there.store.apply(Batch(authorizations=((name, policy),))))  # type: ignore[arg-type]

    def close(self) -> None:
        self.driver.call(lambda: [plane.close() for plane in self.planes])
        self.driver.call(lambda: None)
        self.driver.call(lambda: [plane.limiter.close() for plane in self.planes])
        self.driver.close()
        # close() alone would leave the port taken while a thread waits in accept().
        self.app.shutdown(socket.SHUT_RDWR)
        self.app.close()
        assert not self.driver.crashes, self.driver.crashes


@contextlib.contextmanager
def running(**options: str) -> Iterator[World]:
    """Both nodes started, with these options of the agents; nothing of them is left behind."""
    made = World(**options)
    try:
        made.start()
        yield made
    finally:
        made.close()


def exchange(app: socket.socket, data: bytes = b"hello") -> bytes:
    app.sendall(data)
    app.shutdown(socket.SHUT_WR)
    got = b""
    while chunk := app.recv(65536):
        got += chunk
    app.close()
    return got


def ended(app: socket.socket) -> bool:
    """Whether the connection is refused or reset without an answer."""
    try:
        app.sendall(b"hello")
        return app.recv(10) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        app.close()
