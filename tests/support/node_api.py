"""Of a Kubernetes API what istioctl needs to reach an agent: its pod, its DaemonSet, and the way through to its ports.

Port forwarding is what the kubelet of a node does: SPDY/3.1 inside the upgraded request, a pair of streams for each
connection, the first for errors and the second for bytes. Of SPDY no more is here than that: which stream is which is
told from their order, so no header is read, and none is sent; whoever makes this says which port of a pod is meant.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import parse_qs, urlparse

Raw = dict[str, Any]
Dial = Callable[[str], socket.socket]
"""A connection to the port of a pod, by the pod's name."""
VERSION, FIN = 0x8003, 1
SYN_STREAM, SYN_REPLY, PING = 1, 2, 6
PROTOCOL = "portforward.k8s.io"


class NodeApi:
    """Serves from creation to `close`; `asked` is every path that was asked for."""

    def __init__(self, objects: list[Raw], dial: Dial) -> None:
        self.objects, self.asked = objects, list[str]()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                status, answer = outer.answer(self.path)
                said = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def do_POST(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                self.send_response(101)
                self.send_header("Connection", "Upgrade")
                self.send_header("Upgrade", "SPDY/3.1")
                self.send_header("X-Stream-Protocol-Version", PROTOCOL)
                self.end_headers()
                pod = urlparse(self.path).path.split("/")[-2]
                _Forwarding(self.rfile, self.connection, lambda: dial(pod)).run()
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, Raw]:
        """An object by its name, or those of a kind that the selectors choose."""
        url = urlparse(path)
        if url.path in KINDS_SERVED:
            return 200, KINDS_SERVED[url.path]
        found = re.fullmatch(r"(/apis?/(?:apps/)?v1)/(?:namespaces/([^/]+)/)?([a-z]+)(?:/([^/]+))?", url.path)
        if found is None:
            return 404, missing(url.path)
        base, namespace, plural, name = found.groups()
        kind = [each for each in self.objects if f"{each['kind'].lower()}s" == plural]
        kind = [each for each in kind if namespace in (None, each["metadata"].get("namespace"))]
        if name:
            named = [each for each in kind if each["metadata"]["name"] == name]
            return (200, named[0]) if named else (404, missing(url.path))
        chosen = [each for each in kind if is_selected(each, parse_qs(url.query))]
        listed = next(
            (each["kind"] for each in KINDS_SERVED[base]["resources"] if each["name"] == plural), None
        )
        if listed is None:
            return 404, missing(url.path)
        version = KINDS_SERVED[base]["groupVersion"]
        return 200, {"kind": f"{listed}List", "apiVersion": version, "metadata": {}, "items": chosen}


def resources(version: str, **kinds: str) -> Raw:
    rows = [
        {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
        for plural, kind in kinds.items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows}


APPS = {"groupVersion": "apps/v1", "version": "v1"}
KINDS_SERVED: dict[str, Raw] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "apps", "versions": [APPS], "preferredVersion": APPS}],
    },
    "/api/v1": resources("v1", pods="Pod"),
    "/apis/apps/v1": resources("apps/v1", daemonsets="DaemonSet"),
}


def missing(what: str) -> Raw:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return said | {"code": 404, "reason": "NotFound", "message": what}


def is_selected(each: Raw, query: dict[str, list[str]]) -> bool:
    labels = each["metadata"].get("labels", {})
    for term in filter(None, ",".join(query.get("labelSelector", [])).split(",")):
        name, _, value = term.replace("==", "=").partition("=")
        if labels.get(name) != value:
            return False
    for term in filter(None, ",".join(query.get("fieldSelector", [])).split(",")):
        place, _, value = term.replace("==", "=").partition("=")
        at: Any = each
        for part in place.split("."):
            at = at.get(part, {})
        if at != value:
            return False
    return True


class _Forwarding:
    """One session: its connections end with it."""

    def __init__(self, source: IO[bytes], sink: socket.socket, dial: Callable[[], socket.socket]) -> None:
        self._source, self._sink, self._dial = source, sink, dial
        self._turn = threading.Lock()
        self._headers = zlib.compressobj()
        self._errors: list[int] = []
        self._sockets: dict[int, socket.socket] = {}

    def run(self) -> None:
        try:
            while head := self._source.read(8):
                first, second = struct.unpack("!II", head)
                flags, length = second >> 24, second & 0xFFFFFF
                body = self._source.read(length)
                if not first >> 31:
                    self._data(first, flags, body)
                elif first & 0xFFFF == SYN_STREAM:
                    self._opened(struct.unpack_from("!I", body)[0])
                elif first & 0xFFFF == PING:
                    self._send(head + body)
        except OSError:
            pass  # istioctl has what it wants, and goes
        finally:
            for sock in self._sockets.values():
                sock.close()

    def _opened(self, stream: int) -> None:
        with self._turn:
            # No header: a number of them that is 0.
            block = self._headers.compress(bytes(4)) + self._headers.flush(zlib.Z_SYNC_FLUSH)
            body = struct.pack("!I", stream) + block
            self._sink.sendall(struct.pack("!HHI", VERSION, SYN_REPLY, len(body)) + body)
        if len(self._errors) == len(self._sockets):
            self._errors.append(stream)
            return
        sock = self._sockets[stream] = self._dial()
        threading.Thread(target=self._answers, args=(sock, stream, self._errors[-1]), daemon=True).start()

    def _data(self, stream: int, flags: int, body: bytes) -> None:
        sock = self._sockets.get(stream)
        if sock is not None:
            sock.sendall(body)
            if flags & FIN:
                sock.shutdown(socket.SHUT_WR)

    def _answers(self, sock: socket.socket, stream: int, errors: int) -> None:
        with contextlib.suppress(OSError):  # the session is over
            while data := sock.recv(65536):
                self._send(struct.pack("!II", stream, len(data)) + data)
            for each in (stream, errors):
                self._send(struct.pack("!II", each, FIN << 24))

    def _send(self, frame: bytes) -> None:
        with self._turn:
            self._sink.sendall(frame)
