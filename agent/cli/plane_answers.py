"""Does whoever holds the lock of a control plane still answer? One TLS handshake, as agents begin with.

The kernel takes connections in the name of a process that is stopped, so that only an answer tells.
"""

from __future__ import annotations

import socket
import ssl

from agent.model.address import AddressError, SocketAddress, parse_ip

PATIENCE_S = 5.0
"""Long beside what a busy control plane takes for one, short beside what a person waits for."""


def is_silent(address: str, patience_s: float) -> bool:
    """Whether a connection is taken there, and nothing said on it. False where that cannot be seen from here.

    Nobody there, or no way, proves nothing: it may serve in another network namespace.
    """
    try:
        at = SocketAddress.parse(address)
    except AddressError:
        return False
    ip = (parse_ip("127.0.0.1") if at.ip.version == 4 else parse_ip("::1")) if at.ip.is_unspecified else at.ip
    # Nothing is told to it and nothing believed: who it is does not matter.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        sock = socket.create_connection((str(ip), at.port), patience_s)
    except OSError:
        return False
    with sock:
        try:
            context.wrap_socket(sock).close()
        except TimeoutError:
            return True
        except OSError:  # also an alert: it has answered
            return False
    return False
