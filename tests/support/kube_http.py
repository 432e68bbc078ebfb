"""How `kube.FakeApi` is spoken to: HTTPS with every connection known, and requests taken apart and answered."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.support.kube import FakeApi

Raw = dict[str, Any]
Key = tuple[str, str, str]
_NAMESPACED = re.compile(
    r"/api/v1/namespaces/([^/]+)/(pods|events|secrets|configmaps)(?:/([^/]+))?(?:/(status))?"
)
_ALL = re.compile(
    r"(?:/api|/apis/([a-z0-9.]+))/v1(?:alpha1)?/(pods|namespaces|nodes|services|configmaps|[a-z]+policies"
    r"|peerauthentications|connectionlimits|endpointslices|serviceentries|workloadentries|gateways|gatewayclasses)"
)
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
KINDS = {
    "Pod": "pods",
    "Namespace": "namespaces",
    "Event": "events",
    "Node": "nodes",
    "Service": "services",
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "AuthorizationPolicy": "authorizationpolicies",
    "PeerAuthentication": "peerauthentications",
    "ConnectionLimit": "connectionlimits",
    "EndpointSlice": "endpointslices",
    "ServiceEntry": "serviceentries",
    "WorkloadEntry": "workloadentries",
    "Gateway": "gateways",
    "GatewayClass": "gatewayclasses",
}


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def key_of(raw: Raw) -> Key:
    return KINDS[raw["kind"]], raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


class Server(ThreadingHTTPServer):
    """With every connection known, so that a test can break it or leave it hanging."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext
    ) -> None:
        self._tls = tls
        self._open: set[socket.socket] = set()
        self.held: set[socket.socket] = set()
        self.accepted = 0
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        sock.settimeout(20)
        self.accepted += 1
        # The handshake belongs to the handler's thread: a client that is slow with it holds up nobody.
        wrapped = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._open.add(wrapped)
        return wrapped, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        if request not in self.held:
            super().shutdown_request(request)

    def hold_connections(self) -> None:
        self.held |= self._open

    def break_connections(self) -> None:
        for sock in list(self._open | self.held):
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # the client was faster
            if sock in self.held:
                sock.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not trust us, is what tests are about."""


def handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # as of a real one

        def do_GET(self) -> None:
            self._answer(self._get)

        def do_PUT(self) -> None:
            self._answer(self._put)

        def do_PATCH(self) -> None:
            self._answer(self._patch)

        def do_POST(self) -> None:
            self._answer(self._post)

        def _answer(self, work: Any) -> None:
            api.requests.append(f"{self.command} {self.path}")
            length = int(self.headers.get("Content-Length") or 0)
            self.body = json.loads(self.rfile.read(length)) if length else {}
            try:
                if (self.headers.get("Authorization") or "").removeprefix("Bearer ") not in api.tokens:
                    raise Refused(401, "Unauthorized")
                for refusal in api.refusals:
                    if refusal.times and refusal.match in f"{self.command} {self.path}":
                        refusal.times -= 1
                        self._send(refusal.status, _status(refusal.status, refusal.message), refusal.headers)
                        return
                work()
            except Refused as refused:
                self._send(refused.status, _status(refused.status, str(refused)))

        def _get(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            single = _NAMESPACED.fullmatch(url.path)
            if single is not None:
                namespace, kind, name, _ = single.groups()
                self._send(200, api.found(kind, namespace, name))
                return
            group, kind = _ALL.fullmatch(url.path).groups()  # type: ignore[union-attr]
            if group in api.lacks:
                raise Refused(404, "the server could not find the requested resource")
            if "watch" not in query:
                self._send(200, api.listed(kind, query))
                return
            events = api.watched(kind, query)
            first = next(events)
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in (first, *()) if first else ():
                self._chunk(event)
            for event in events:
                self._chunk(event)
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def _chunk(self, event: Raw) -> None:
            while self.connection in api.server.held if api.server else False:
                time.sleep(0.05)
            data = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def _patch(self) -> None:
            namespace, kind, name, part = _NAMESPACED.fullmatch(urlsplit(self.path).path).groups()  # type: ignore[union-attr]
            assert part == "status", "only through the status"
            assert "patch" in self.headers["Content-Type"]
            self._send(200, api.patched(kind, namespace, name, self.body))

        def _post(self) -> None:
            path = urlsplit(self.path).path
            if path == _REVIEWS:
                unknown = {"authenticated": False, "error": "unknown token"}
                self._send(201, {**self.body, "status": api.reviews.get(self.body["spec"]["token"], unknown)})
                return
            namespace, kind, _, _ = _NAMESPACED.fullmatch(path).groups()  # type: ignore[union-attr]
            assert kind == KINDS[self.body["kind"]] and self.body["metadata"]["namespace"] == namespace
            if kind != "events" and any(key_of(raw) == key_of(self.body) for raw in api.all(kind)):
                raise Refused(409, f"{kind} {self.body['metadata']['name']!r} already exists")
            self._send(201, api.create(self.body))

        def _put(self) -> None:
            namespace, kind, name, _ = _NAMESPACED.fullmatch(urlsplit(self.path).path).groups()  # type: ignore[union-attr]
            api.found(kind, namespace, name)
            self._send(200, api.put("MODIFIED", self.body))

        def _send(self, status: int, body: Raw, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler


def _status(code: int, message: str) -> Raw:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}
