"""Loads the OpenSSL that `cryptography` brings in such a way that servers make no session tickets.

Nobody may resume a connection here (`OP_NO_TICKET`), yet OpenSSL seals and sends two tickets behind each handshake,
which cost the server a twentieth of its part of it and the peer two records to open. How many they are can be said by
a call that the binding does not have, or by a configuration file, which the library reads once, when it is loaded. So
whoever is to shake hands imports this before anything that imports `cryptography`: later it does nothing. A file that
somebody has named for OpenSSL stays the one that is read, and any other OpenSSL of the process reads its own.
"""

from __future__ import annotations

import importlib
import os

VARIABLE = "OPENSSL_CONF"
# config(5) of OpenSSL; what contexts are made with goes by the name of system_default.
_TEXT = b"openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nNumTickets = 0\n"


def load() -> None:
    if VARIABLE in os.environ:
        return
    fd = os.memfd_create("openssl")
    try:
        os.write(fd, _TEXT)
        os.environ[VARIABLE] = f"/proc/self/fd/{fd}"
        importlib.import_module("cryptography.hazmat.bindings._rust")
    finally:
        os.environ.pop(VARIABLE, None)
        os.close(fd)


load()
