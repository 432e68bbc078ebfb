"""What processes of ours give up once they are set up: rights that they do not need, and dumps of their memory.

Capabilities are per thread (capabilities(7)): the threads of the private namespaces keep what it takes to make
transparent sockets; every other one, among them the thread that touches what peers send, nothing but binding to low
ports. Core dumps are a process's (prctl(2), core(5)): those that hold keys leave none.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

CAP_NET_BIND_SERVICE = 10
CAP_NET_RAW = 13
"""For IP_TRANSPARENT; CAP_NET_ADMIN would do as well, and allows far more."""
CAP_SYS_PTRACE = 19
VERSION_3 = 0x20080522
PR_SET_DUMPABLE = 4
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


def refuse_core_dumps(*, is_looked_at: bool = False) -> None:
    """From here on no crash writes the memory of this process anywhere: there are keys in it. Raises OSError.

    Nor does anybody look into it who has not CAP_SYS_PTRACE. `is_looked_at`: a process with this one's rights does, in
    /proc, for where its threads live. Where those are without that capability only the limit is set, which refuses
    files, and means nothing to a program that core_pattern pipes dumps to.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if is_looked_at and not _has(CAP_SYS_PTRACE):
        return
    if _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot refuse core dumps: {os.strerror(code)}")


def _has(capability: int) -> bool:
    """Whether this thread may use it."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot read capabilities: {os.strerror(code)}")
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw[:24])
    return bool((low | high << 32) >> capability & 1)
