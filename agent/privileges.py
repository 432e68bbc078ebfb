"""What a worker may no longer do once its sockets' threads are in their namespaces.

Capabilities are per thread (capabilities(7)): the threads of the private namespaces keep what it takes to make
transparent sockets; every other one, among them the thread that touches what peers send, nothing but binding to low
ports.
"""

from __future__ import annotations

import ctypes
import os
import struct

CAP_NET_BIND_SERVICE = 10
CAP_NET_RAW = 13
"""For IP_TRANSPARENT; CAP_NET_ADMIN would do as well, and allows far more."""
VERSION_3 = 0x20080522
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def keep_only(*capabilities: int) -> None:
    """Drop every capability of this thread but these, for good. Raises OSError."""
    mask = sum(1 << capability for capability in capabilities)
    # struct __user_cap_header_struct {version, pid}; then effective, permitted, inheritable for 2 x 32 bits
    header = ctypes.create_string_buffer(struct.pack("=Ii", VERSION_3, 0))
    low = struct.pack("=III", mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0)
    high = struct.pack("=III", mask >> 32, mask >> 32, 0)
    if _libc.capset(header, ctypes.create_string_buffer(low + high)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot drop capabilities: {os.strerror(code)}")
    # execve() of a root process would give them back.
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot give up new privileges: {os.strerror(code)}")
