"""Asks a running agent over its admin socket, and says what is wrong when nobody answers."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT_S = 30.0
_CREDENTIALS = struct.Struct("3i")
"""`struct ucred` of unix(7): pid, uid, gid."""


class AgentAbsent(Exception):
    """No agent answers on the socket."""


class AgentGone(AgentAbsent):
    """Nobody has the socket open: it has ended, or none was started."""


class AgentRefused(Exception):
    """The agent answered with a refusal, or its socket is not for this user; the text says why."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path,
    method: str,
    target: str,
    body: dict[str, Any] | None = None,
    *,
    wait_s: float = 0.0,
    patience_s: float = ANSWER_TIMEOUT_S,
) -> Any:
    """The agent's JSON answer, for which it may take `wait_s` longer than patience. Raises AgentAbsent or AgentRefused.

    A request that was given up is not carried out later: the agent looks whether who asked is still there.
    """
    connection = UnixConnection(path, patience_s + wait_s)
    try:
        connection.request(method, target, json.dumps(body).encode() if body is not None else None)
        response = connection.getresponse()
        raw = response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AgentGone(f"no agent answers on {path}; is it running? try `ztun agent --help`") from error
    except PermissionError as error:
        raise AgentRefused(f"{path} may be opened by root only: run this as root") from error
    except TimeoutError as error:
        raise AgentAbsent(
            f"the agent on {path} has not answered within {patience_s + wait_s:g} s{state_of(connection.sock)}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise AgentAbsent(f"the agent on {path} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise AgentRefused(raw.decode(errors="replace").strip())
    return json.loads(raw)


def state_of(connected: socket.socket | None) -> str:
    """Of the process at the other end, for texts: its pid, and whether it is stopped. Empty: not known."""
    if connected is None:
        return ""
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(raw)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    if state in "Tt":
        return f": process {pid} is stopped; `kill -CONT {pid}` lets it go on"
    return f": process {pid} hangs or has too much to do"
