"""Full handshakes against a proxy: `python -m tests.bench.handshakes HOST PORT DIR WARM_UP_S LENGTH_S CPU`.

Each: new TCP connection, TLS 1.3 with the client certificate in DIR and no resumption, HTTP/2 preface and
SETTINGS, the server's SETTINGS read, closed. Only the server's CPU is counted, by whoever started this.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from OpenSSL import SSL

from tests.bench.load import PATIENCE_S, Span, say

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SETTINGS_TYPE = 4


def context(directory: Path) -> SSL.Context:
    """TLS 1.3 client with `leaf.pem`, `leaf.key` and the trusted `ca.pem`; names are not checked here."""
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(SSL.TLS1_3_VERSION)
    made.use_certificate_chain_file(str(directory / "leaf.pem"))
    made.use_privatekey_file(str(directory / "leaf.key"))
    made.load_verify_locations(str(directory / "ca.pem"))
    made.set_verify(SSL.VERIFY_PEER, lambda *arguments: bool(arguments[-1]))
    made.set_alpn_protos([b"h2"])
    return made


def shake(made: SSL.Context, address: tuple[str, int]) -> SSL.Connection:
    """One handshake with the start of HTTP/2; raises if the server does not answer with SETTINGS."""
    sock = socket.create_connection(address, PATIENCE_S)
    # pyOpenSSL wants a socket that blocks; the kernel gives up for it.
    sock.settimeout(None)
    limit = int(PATIENCE_S).to_bytes(8, "little") + bytes(8)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = SSL.Connection(made, sock)
    connection.set_connect_state()
    connection.do_handshake()
    connection.sendall(PREFACE)
    frame = connection.recv(65536)
    if len(frame) < 9 or frame[3] != SETTINGS_TYPE:
        raise ConnectionError(f"{address} answered {frame[:32]!r} where SETTINGS belong")
    return connection


def run(directory: Path, address: tuple[str, int], span: Span) -> dict[str, object]:
    made, count, group = context(directory), 0, ""
    while not span.took_s:
        connection = shake(made, address)
        group = f"{connection.get_cipher_name()} {connection.get_group_name()}"
        connection.close()
        count += 1
        if span.tick():
            count = 0
    return {"count": count, "seconds": span.took_s, "negotiated": group}


def main() -> None:
    host, port, directory, warm_up_s, length_s, cpu = sys.argv[1:]
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    say(json.dumps(run(Path(directory), (host, int(port)), Span(float(warm_up_s), float(length_s)))))


if __name__ == "__main__":
    main()
