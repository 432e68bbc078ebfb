"""The application of an east-west gateway: `python -S -E forward.py PORT NETNS HOST PORT CPU`. Standard library only.

What it accepts in its own pod goes to HOST:PORT by the namespace NETNS of a pod that nobody has captured, as the mesh
would take it for a tunnel in a tunnel otherwise. Bytes stay in the kernel (splice): it is not what is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import sys
import threading
from pathlib import Path

PIPE_BYTES = 1 << 20
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def carry(source: socket.socket, sink: socket.socket) -> None:
    """Until the end, which is passed on; what breaks here breaks there."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        while size := os.splice(source.fileno(), into, PIPE_BYTES):
            while size:
                size -= os.splice(out, sink.fileno(), size)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(out)
        os.close(into)


def serve(near: socket.socket, target: tuple[str, int]) -> None:
    with near, socket.create_connection(target) as far:
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=carry, args=(far, near), daemon=True)
        back.start()
        carry(near, far)
        back.join()


def main(port: str, netns: str, host: str, target_port: str, cpu: str) -> None:
    if int(cpu) >= 0:
        os.sched_setaffinity(0, {int(cpu)})
    listener = socket.create_server(("0.0.0.0", int(port)))
    # The listener stays where it was made; threads that are begun from now on dial from the other namespace.
    with Path(netns).open() as other:
        if _libc.setns(other.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    sys.stdout.write(f"ready {port}\n")
    sys.stdout.flush()
    while True:
        near, _ = listener.accept()
        threading.Thread(target=serve, args=(near, (host, int(target_port))), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
