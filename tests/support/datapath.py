"""A whole data plane of one worker on loopback, for tests: real sockets, real TLS, no kernel redirection.

It is the worker's own `DataPlane`; only what lies outside it is a test's. Each pod is a loopback address. What the
kernel would capture is handed to `outbound.accepted` by the test; the HBONE listener is real, so two of these talk
as two nodes do. One loop drives all of them.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

from agent import config
from agent.model.address import SocketAddress, parse_ip
from agent.model.outcome import Outcome
from agent.model.service import Service
from agent.model.workload import Workload
from agent.net.accept import Acceptor
from agent.net.loop import Loop
from agent.net.sockets import SideSockets
from agent.proxy.dataplane import DataPlane, Outside
from agent.proxy.delivery import ProxyAddresses
from agent.proxy.pods import LocalPod
from agent.state.apply import Batch
from agent.telemetry.metrics import Metrics
from tests.support.certs import TestCA, credentials
from tests.support.loopback import ours

PROXY = ProxyAddresses(parse_ip(ours("255.1")), parse_ip("::1"))
PATIENCE_S = 30.0
DEFAULTS = {"node": "n1", "connect_timeout_s": "2", "handshake_timeout_s": "2", "max_connections": "1000"}


class DataPath(DataPlane):
    """One worker. `lines` are its access log; `add_pod` makes a workload local and certified.

    `options` are texts of the agent's configuration, by field.
    """

    def __init__(self, loop: Loop, ca: TestCA, **options: str) -> None:
        self.ca = ca
        self.lines: list[str] = []
        self.wall_skew_s = 0.0
        self.metrics = Metrics("test")
        self.sockets = SideSockets(None)
        outside = Outside(
            loop,
            self.sockets,
            self.sockets,
            PROXY,
            self.metrics,
            self.lines.append,
            random.Random(7),
            wall=lambda: time.time() + self.wall_skew_s,
        )
        super().__init__(config.build({**DEFAULTS, **options}), outside)
        self._acceptors: list[Acceptor] = []
        self._listeners: list[socket.socket] = []
        self._local: list[LocalPod] = []

    def add_pod(self, workload: Workload, *, certified: bool = True, listening: bool = True) -> None:
        """Make this workload an enrolled pod here, with its HBONE listener on loopback."""
        pod = LocalPod(workload.namespace, workload.name, workload.service_account, workload.addresses)
        self._local.append(pod)
        self.pods.replace(self._local)
        if certified:
            self.secrets.put(credentials(self.ca, str(workload.identity)))
        for address in workload.addresses if listening else ():
            self.listen(str(address), 15008, self.inbound.accepted)

    def listen(self, host: str, port: int, accepted: Callable[..., None]) -> int:
        listener = socket.create_server((host, port), backlog=512)
        listener.setblocking(False)
        self._listeners.append(listener)
        self._acceptors.append(Acceptor(self.loop, listener, accepted))
        self._acceptors[-1].start()
        return int(listener.getsockname()[1])

    def know(self, *resources: Workload | Service) -> None:
        self.store.apply(Batch(addresses=resources))

    def capture(self, source: str, destination: SocketAddress) -> socket.socket:
        """A connection that the pod at `source` opened to `destination`, as the kernel would hand it over."""
        application, captured = stream_pair(source)
        captured.setblocking(False)
        peer = SocketAddress(parse_ip(source), application.getsockname()[1])
        self.outbound.accepted(captured, peer, destination)
        return application

    def close(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        for listener in self._listeners:
            listener.close()
        for _, link in self.pool.links:
            link.abort()
        self.inbound.lobby.close()
        for entry in tuple(self.inbound.links):
            entry.link.abort()
        for live in self.registry:
            live.owner.close(Outcome.DRAINED, "the test is over")
        self.sockets.close()


def stream_pair(source: str) -> tuple[socket.socket, socket.socket]:
    """A TCP connection from a loopback address: (the application's end, the agent's end)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application = socket.create_connection(listener.getsockname(), source_address=(source, 0))
        captured, _ = listener.accept()
    return application, captured


class Driver:
    """Turns a loop in a thread of its own while a test uses blocking sockets against it."""

    def __init__(self) -> None:
        self.crashes: list[BaseException] = []
        self.skew_s = 0.0
        self.loop = Loop(lambda: time.monotonic() + self.skew_s, lambda error, fd: self.crashes.append(error))
        self._stop = threading.Event()
        self._calls: list[tuple[Callable[[], object], threading.Event, list[object]]] = []
        self._thread = threading.Thread(target=self._run, name="driver")
        self._thread.start()

    def call(self, action: Callable[[], object]) -> object:
        """Run something on the loop's thread and give its result."""
        done, result = threading.Event(), list[object]()
        self._calls.append((action, done, result))
        assert done.wait(PATIENCE_S), "the loop is stuck"
        if result and isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds on the loop's thread; fail when it does not for long."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.call(condition):
            assert time.monotonic() < deadline, "the condition never held"

    def _run(self) -> None:
        while not self._stop.is_set():
            self.loop.turn(0.005)
            while self._calls:
                action, done, result = self._calls.pop(0)
                try:
                    result.append(action())
                except Exception as error:
                    result.append(error)
                done.set()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.loop.close()
