"""The server of istio-cni's ZDS socket, as strict as that one: hello first, one answer to each message, in time.

What goes wrong is kept in `faults`, for the test to look at: it happens in a thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from agent.pb import zds_pb2

PATIENCE_S = 5.0
"""How long istio-cni waits for a hello, and for an answer."""


@dataclass(frozen=True)
class Named:
    """A pod as it is named; `netns`: None where its namespace was not found."""

    uid: str
    name: str
    netns: Path | None
    account: str = "client"
    namespace: str = "demo"


def add(pod: Named) -> bytes:
    info = zds_pb2.WorkloadInfo(name=pod.name, namespace=pod.namespace, service_account=pod.account)
    request = zds_pb2.WorkloadRequest(add=zds_pb2.AddWorkload(uid=pod.uid, workload_info=info))
    return request.SerializeToString()


def keep(uid: str) -> bytes:
    return zds_pb2.WorkloadRequest(keep=zds_pb2.KeepWorkload(uid=uid)).SerializeToString()


def delete(uid: str) -> bytes:
    return zds_pb2.WorkloadRequest(**{"del": zds_pb2.DelWorkload(uid=uid)}).SerializeToString()


SNAPSHOT_SENT = b"\x1a\x00"


class ZdsServer:
    """`pods` is what it knows, by uid; it names them to whoever connects. `connections` counts those."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pods: dict[str, Named] = {}
        self.faults: list[str] = []
        self.connections = 0
        self.slowest_s = 0.0
        self.snapshot_answers: list[str] = []
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._one_at_a_time = threading.Lock()
        self._is_whole = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._listener is not None

    def stop(self) -> None:
        listener, thread = self._listener, self._thread
        if listener is None or thread is None:
            return
        # The thread may wait in one of them: closing alone would not wake it.
        for sock in (listener, self._peer):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        assert not thread.is_alive()
        listener.close()
        if self._peer is not None:
            self._peer.close()
        self._is_whole.clear()
        self._listener = self._peer = self._thread = None
        self.path.unlink(missing_ok=True)

    def wait_whole(self, timeout_s: float = 60.0) -> None:
        """Until the newest connection has had its snapshot."""
        assert self._is_whole.wait(timeout_s), f"no snapshot was taken: {self.faults}"

    def add(self, pod: Named) -> str:
        """Name a pod; the error of the answer."""
        self.pods[pod.uid] = pod
        return self.ask(add(pod), pod.netns)

    def delete(self, uid: str) -> str:
        self.pods.pop(uid, None)
        return self.ask(delete(uid))

    def ask(self, packet: bytes, *namespaces: Path | None) -> str:
        """Send one message and wait for its answer; the error that it has."""
        self.wait_whole()
        with self._one_at_a_time:
            assert self._peer is not None
            return self._ask(self._peer, packet, *namespaces)

    def _ask(self, peer: socket.socket, packet: bytes, *namespaces: Path | None) -> str:
        fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in namespaces if path is not None]
        asked_s = time.monotonic()
        try:
            socket.send_fds(peer, [packet], fds)
        finally:
            for fd in fds:
                os.close(fd)
        peer.settimeout(PATIENCE_S)
        raw = peer.recv(1024)
        self.slowest_s = max(self.slowest_s, time.monotonic() - asked_s)
        if not raw:
            raise ConnectionError("the client has closed the connection")
        answer = zds_pb2.WorkloadResponse.FromString(raw)
        assert answer.WhichOneof("payload") == "ack", raw
        error: str = answer.ack.error
        return error

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return  # stopped
            self._is_whole.clear()
            if self._peer is not None:
                self._peer.close()
                self._peer = None
            try:
                with self._one_at_a_time:
                    self._greet(peer)
            except (OSError, AssertionError) as error:
                peer.close()
                self.faults.append(f"{type(error).__name__}: {error}")

    def _greet(self, peer: socket.socket) -> None:
        peer.settimeout(PATIENCE_S)
        hello = peer.recv(1024)
        assert hello == b"\x08\x01", f"the hello is {hello!r}"
        self.connections += 1
        answers = []
        for pod in list(self.pods.values()):
            message = keep(pod.uid) if pod.netns is None else add(pod)
            answers.append(self._ask(peer, message, pod.netns))
        answers.append(self._ask(peer, SNAPSHOT_SENT))
        self.snapshot_answers = [each for each in answers if each]
        self._peer = peer
        self._is_whole.set()
