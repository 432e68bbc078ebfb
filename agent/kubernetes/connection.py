"""One HTTP request to the Kubernetes API at a time, over TLS: blocking, for a thread of its own.

The standard library's client, so that the control process carries no second HTTP stack (docs/ARCHITECTURE.md has the
figures). A peer that is gone without a word is noticed by TCP in half a minute, one whose connection still stands by
the patience of the reader. `abort` may be called from any thread.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.kubernetes.access import Access, AccessError
from agent.kubernetes.failure import Failure, of_answer, of_error

CONNECT_PATIENCE_S = 10.0
LINE_LIMIT_BYTES = 16 * 2**20
"""An object may have 1.5 MiB in etcd; its JSON is some more."""
BODY_LIMIT_BYTES = 256 * 2**20
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 15),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 30_000),
)


class RequestFailed(Exception):
    """The request came to nothing; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Connection:
    """Requests to one API server. `way` is asked for each of them: files may be put right meanwhile.

    Whoever writes several in a row has them go over one connection (`keeps_open`), and closes it when they are done.
    """

    def __init__(self, way: Callable[[], Access], *, keeps_open: bool = False) -> None:
        self._way = way
        self._keeps_open = keeps_open
        self._access: Access | None = None
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_aborted = False
        self._kept: _Tls | None = None
        """Of the last write, as long as the server keeps it open too and the way there is the same."""

    def read(self, path: str, patience_s: float, what: str) -> bytes:
        """The body of a GET. Raises RequestFailed."""
        with self._asked("GET", path, None, "", patience_s, what, "get, list and watch") as answer:
            body = answer.read(BODY_LIMIT_BYTES + 1)
        if len(body) > BODY_LIMIT_BYTES:
            raise RequestFailed(Failure(f"the answer for {what} is larger than {BODY_LIMIT_BYTES >> 20} MiB"))
        return body

    @contextmanager
    def watched(self, path: str, patience_s: float, what: str) -> Iterator[Iterator[bytes]]:
        """The lines of a GET as they come, until the server ends it. Raises RequestFailed, at its lines too."""
        with self._asked("GET", path, None, "", patience_s, what, "get, list and watch") as answer:
            yield self._lines(answer, what)

    def write(self, method: str, path: str, body: bytes, kind: str, what: str, verb: str) -> bytes:
        """Send something; the body of the answer. Raises RequestFailed."""
        with self._asked(
            method, path, body, kind, CONNECT_PATIENCE_S, what, verb, is_kept=self._keeps_open
        ) as answer:
            return answer.read(BODY_LIMIT_BYTES)

    def close(self) -> None:
        """What a write has left open for the next one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def abort(self) -> None:
        """Have the request that is under way, and every later one, fail at once."""
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                # The plain call: that of the TLS socket would change what its reader works with.
                try:
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    return  # it is closed already

    def _lines(self, answer: http.client.HTTPResponse, what: str) -> Iterator[bytes]:
        while True:
            try:
                line = answer.readline(LINE_LIMIT_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise self._failed(error, what) from error
            if not line:
                return
            if not line.endswith(b"\n"):
                # What is cut off at the end of a stream is no event, and one without an end is none either.
                raise RequestFailed(Failure(f"a watch of {what} broke off within an event"))
            yield line

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        body: bytes | None,
        kind: str,
        patience_s: float,
        what: str,
        verbs: str,
        *,
        is_kept: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        former = self._access
        try:
            self._access = access = self._way()
            headers = access.headers() | ({"Content-Type": kind} if kind else {})
            if not is_kept or access != former:
                self.close()
            connection = self._kept or _Tls(access, self._hold)
        except AccessError as error:
            raise RequestFailed(Failure(str(error))) from error
        is_kept_for_next = False
        try:
            try:
                answer = self._answer(
                    connection, patience_s, lambda: connection.request(method, path, body, headers)
                )
                if answer.status // 100 != 2:
                    said = answer.read(65536)
                    raise RequestFailed(
                        of_answer(answer.status, answer.getheader("Retry-After"), said, what, verbs)
                    )
                yield answer
                is_kept_for_next = is_kept and answer.isclosed() and not answer.will_close
            except (OSError, http.client.HTTPException) as error:
                raise self._failed(error, what) from error
        finally:
            self._hold(None)
            self._kept = connection if is_kept_for_next else None
            if not is_kept_for_next:
                connection.close()

    def _answer(
        self, connection: _Tls, patience_s: float, ask: Callable[[], None]
    ) -> http.client.HTTPResponse:
        """To one request. On a connection of before that ended meanwhile it is asked again, by a new one, once."""
        if connection is self._kept:
            try:
                self._hold(connection.sock)
                connection.sock.settimeout(patience_s)
                ask()
                return connection.getresponse()
            except (ConnectionError, ssl.SSLError, http.client.HTTPException):
                connection.close()
        connection.connect()
        connection.sock.settimeout(patience_s)
        ask()
        return connection.getresponse()

    def _hold(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._socket = sock
            is_aborted = self._is_aborted
        if sock is not None and is_aborted:
            raise ConnectionAbortedError("this agent stops")

    def _failed(self, error: Exception, what: str) -> RequestFailed:
        assert self._access is not None, "nothing was asked"
        return RequestFailed(of_error(error, self._access.server, self._access.ca_source, what))


class _Tls(http.client.HTTPSConnection):
    """With the name that the certificate must have apart from the host, and a peer that is noticed to be gone."""

    def __init__(self, access: Access, hold: Callable[[socket.socket], None]) -> None:
        """`hold` is told of each socket before anybody waits for it, and raises when nobody should."""
        self._tls = access.context()
        self._server_name = access.server_name or access.host
        self._hold = hold
        super().__init__(access.host, access.port, timeout=CONNECT_PATIENCE_S, context=self._tls)

    def connect(self) -> None:
        self.sock: ssl.SSLSocket = self._dial()
        self.sock.do_handshake()

    def _dial(self) -> ssl.SSLSocket:
        failure = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        ):
            sock = self._unconnected(socket.socket(family, kind, protocol))
            try:
                sock.settimeout(CONNECT_PATIENCE_S)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                # Head and body of a request are sent apart: the body would wait 40 ms for the head to be acknowledged.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for name, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, name, value)
                self._hold(sock)
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def _unconnected(self, raw: socket.socket) -> ssl.SSLSocket:
        """Of one that is connected already, and that the peer resets in between, `ssl` would lose the descriptor."""
        try:
            # Shakes hands later, so that it is held while it does.
            return self._tls.wrap_socket(
                raw, server_hostname=self._server_name, do_handshake_on_connect=False
            )
        except BaseException:
            raw.close()
            raise
