"""Pods of a Service are replaced one after the other while connections keep coming: none of them fails."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from agent.model.workload import Workload
from agent.state.apply import Batch
from tests.support import mesh
from tests.support.loopback import ours
from tests.support.two_nodes import VIP, World, exchange

CALLERS = 4
ROUNDS = 6


class Replica:
    """A pod of the Service with its application, which says who it is."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.address = ours(f"3.{number}")
        self.pod: Workload = mesh.workload(
            f"web-{number}", self.address, service_account="server", services={"web": {80: 8080}}
        )
        self.served = 0
        self._app = socket.create_server((self.address, 8080))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._app.accept()
            except OSError:
                return
            self.served += 1
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    def born(self) -> None:
        """The control plane tells of it: to its own node first, as a pod is ready once it is served."""
        self.world.driver.call(lambda: self.world.there.know(self.pod))
        self.world.driver.call(lambda: self.world.there.add_pod(self.pod))
        self.world.driver.call(lambda: self.world.here.know(self.pod))

    def gone(self) -> None:
        """No endpoint any more; it ends what it has begun, as one with a grace period does, and then is no more."""
        here, there = self.world.here, self.world.there
        gone = Batch(removed_addresses=(self.pod.uid,))
        self.world.driver.call(lambda: here.store.apply(gone))
        self.world.driver.until(
            lambda: not any(str(live.actual.ip) == self.address for live in here.registry)
        )
        self.world.driver.until(lambda: not any(live.pod in self.pod.addresses for live in there.registry))
        self.end_application()
        self.world.driver.call(lambda: there.close_pod(frozenset(self.pod.addresses)))
        self.world.driver.call(lambda: there.store.apply(gone))

    def end_application(self) -> None:
        self._app.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._app.close()


class Calls:
    """Callers that connect to the Service, one connection after the other, until they are to stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.done = 0
        self._is_over = threading.Event()

    def call(self) -> int:
        count = 0
        while not self._is_over.is_set():
            data = f"{threading.get_ident()} {count}".encode()
            assert exchange(self.world.connect(f"{VIP}:80"), data) == data
            count += 1
            self.done += 1
        return count

    def stop(self) -> None:
        self._is_over.set()

    def more(self) -> None:
        """Wait until there were some more."""
        enough = self.done + 2 * CALLERS
        self.world.driver.until(lambda: self.done >= enough)


@contextmanager
def calling(world: World) -> Iterator[Calls]:
    calls = Calls(world)
    with ThreadPoolExecutor(CALLERS) as pool:
        futures: list[Future[int]] = [pool.submit(calls.call) for _ in range(CALLERS)]
        try:
            yield calls
        finally:
            calls.stop()
    # Raises what a caller met.
    assert sum(future.result() for future in futures) == calls.done


def test_every_pod_of_a_service_is_replaced_under_load_and_no_connection_fails(world: World) -> None:
    numbers = itertools.count(1)
    gone = Batch(removed_addresses=(world.server.uid,))
    for plane in (world.here, world.there):
        world.driver.call(lambda plane=plane: plane.store.apply(gone))
    replicas = [Replica(world, next(numbers)) for _ in range(2)]
    try:
        for replica in replicas:
            replica.born()
        with calling(world) as calls:
            for _ in range(ROUNDS):
                calls.more()
                replicas.append(Replica(world, next(numbers)))
                replicas[-1].born()
                calls.more()
                old = replicas.pop(0)
                assert old.served
                old.gone()
            calls.more()
    finally:
        for replica in replicas:
            replica.end_application()
    failed = [line for line in (*world.here.lines, *world.there.lines) if "error=" in line]
    assert not failed, failed[0]
