"""The processes of `tests.bench.ways`: `python -m tests.bench.way_ends client|server|relay …`, each in its namespace.

One connection after the other, a word each way: what is compared is how the kernel brings it to a relay, so the relay
does no more than any must. Blocking sockets, and no memory is looked through meanwhile.
"""

from __future__ import annotations

import gc
import socket
import struct
import sys

BYTES = 64
ONWARD, BACK = b"w" * BYTES, b"a" * BYTES
"""What a client says: for the server, or for whoever gets it first, which answers it then."""
BACKLOG = 1024
IP_TRANSPARENT, SO_ORIGINAL_DST = 19, 80
PATIENCE_S = 20.0
KEPT, MARKED, PLAIN = "kept", "marked", "plain"
"""From where a relay dials: the client's address and port; its own, with a mark that no rule matches; its own."""
MARK = 0x539


def listening(port: int, *, is_transparent: bool = False) -> socket.socket:
    """In the calling thread's namespace."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_transparent:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    sock.bind(("", port))
    sock.listen(BACKLOG)
    return sock


def client(host: str, port: int) -> None:
    """For each line of standard input, `COUNT onward|back`: so many connections, then a line with how many failed."""
    tell("ready")
    for line in sys.stdin:
        count, kind = line.split()
        word, failed = ONWARD if kind == "onward" else BACK, 0
        for _ in range(int(count)):
            try:
                with socket.create_connection((host, port), PATIENCE_S) as sock:
                    sock.sendall(word)
                    failed += sock.recv(BYTES) != word
            except OSError:
                failed += 1
        tell(str(failed))


def server(port: int) -> None:
    listener = listening(port)
    tell("ready")
    while True:
        sock, _ = listener.accept()
        with sock:
            answer(sock, sock.recv(BYTES))


def relay(listener: socket.socket, dials: str, *, is_redirected: bool) -> None:
    """`is_redirected`: conntrack knows where a connection was going; else its own address says so."""
    tell("ready")
    while True:
        inner, peer = listener.accept()
        said = inner.recv(BYTES)
        if said == BACK:
            with inner:
                answer(inner, said)
            continue
        with inner, socket.socket() as outer:
            target = original(inner) if is_redirected else inner.getsockname()
            if dials == KEPT:
                outer.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
                outer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                outer.bind(peer)
            elif dials == MARKED:
                outer.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            outer.connect(target)
            outer.sendall(said)
            answer(inner, outer.recv(BYTES))


def answer(sock: socket.socket, said: bytes) -> None:
    """And wait for the client's end."""
    sock.sendall(said)
    sock.recv(1)


def original(sock: socket.socket) -> tuple[str, int]:
    _, port, address = struct.unpack_from("!HH4s", sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return socket.inet_ntoa(address), port


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    role, *rest = sys.argv[1:]
    gc.disable()
    if role == "client":
        client(rest[0], int(rest[1]))
    elif role == "server":
        server(int(rest[0]))
    else:
        fd, dials, redirected = rest
        relay(socket.socket(fileno=int(fd)), dials, is_redirected=redirected == "redirected")


if __name__ == "__main__":
    main()
