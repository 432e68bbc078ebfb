"""Whether a listener that closes hands the connections in its queue to another one of its port: asked by doing.

Linux 5.10 has the sysctl `tcp_migrate_req`, takes a value for it, and does nothing by it. In a network namespace that
lives as long as the question, so that nothing of the node is touched.
"""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from redirect import netns, rt_writes, sides

SETTING = "net/ipv4/tcp_migrate_req"
CONNECTIONS = 16
"""Spread over two queues by their ports: all of them in one of the two, which would show nothing, are one in 32,768."""
_LOOPBACK = 1


def moves_queues() -> bool:
    """Raises OSError where no namespace can be made, or its settings not be written."""
    if not Path(sides.SYSCTLS, SETTING).exists():
        return False
    answers: list[bool | OSError] = []

    def ask() -> None:
        try:
            netns.unshare()
            sides.write_sysctls({SETTING: "1"})
            rt_writes.set_up(_LOOPBACK)
            answers.append(_is_queue_kept())
        except OSError as error:
            answers.append(error)

    # A thread that is in a namespace of its own for good.
    thread = threading.Thread(target=ask, name="queues")
    thread.start()
    thread.join()
    (answer,) = answers
    if isinstance(answer, OSError):
        raise answer
    return answer


def _is_queue_kept() -> bool:
    with ExitStack() as closing:
        first = _listener(0)
        address = first.getsockname()
        second = closing.enter_context(_listener(address[1]))
        for _ in range(CONNECTIONS):
            closing.enter_context(socket.create_connection(address))
        first.close()
        return len(_accepted(second, closing)) == CONNECTIONS


def _listener(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(2 * CONNECTIONS)
    sock.setblocking(False)
    return sock


def _accepted(listener: socket.socket, closing: ExitStack) -> list[socket.socket]:
    found = []
    while True:
        try:
            found.append(closing.enter_context(listener.accept()[0]))
        except BlockingIOError:
            return found
