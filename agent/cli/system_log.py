"""The system log: what a command did, for whoever looks later, though no process of ztun runs.

To syslog or the journal by /dev/log; where nobody listens there, into the kernel's log, which the journal keeps too.
"""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

SYSLOG = Path("/dev/log")
KERNEL_LOG = Path("/dev/kmsg")
WARNING = 3 * 8 + 4
"""Facility daemon, severity warning (RFC 5424, 6.2.1)."""


def note(text: str) -> str:
    """Puts a line there; where it went, or why it went nowhere (then the answer begins with `not`)."""
    line = f"<{WARNING}>ztun[{os.getpid()}]: {text}".encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.connect(str(SYSLOG))
            log.send(line)
        return f"noted in the system log ({SYSLOG})"
    except OSError as syslog:
        try:
            # Never made: where there is none a file would lie there.
            fd = os.open(KERNEL_LOG, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, line + b"\n")
            finally:
                os.close(fd)
            return f"noted in the kernel's log ({KERNEL_LOG}), as {SYSLOG} has no reader"
        except OSError as error:
            return f"not noted in the system log: {SYSLOG}: {syslog.strerror}; {KERNEL_LOG}: {error.strerror}"


def caller() -> str:
    """Who runs this command: whoever logged in, not whom he became since."""
    uid = os.getuid()
    try:
        login = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        login = NO_LOGIN
    return _name(uid if login == NO_LOGIN else login)


NO_LOGIN = 0xFFFFFFFF
"""What the kernel says of a process that descends from no login."""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
