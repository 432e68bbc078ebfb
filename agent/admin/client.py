"""Asks a running agent over its admin socket, and says what is wrong when nobody answers."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT_S = 30.0


class AgentAbsent(Exception):
    """No agent answers on the socket."""


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
    path: Path, method: str, target: str, body: dict[str, Any] | None = None, *, wait_s: float = 0.0
) -> Any:
    """The agent's JSON answer, for which it may take `wait_s` longer. Raises AgentAbsent or AgentRefused."""
    connection = UnixConnection(path, ANSWER_TIMEOUT_S + wait_s)
    try:
        connection.request(method, target, json.dumps(body).encode() if body is not None else None)
        response = connection.getresponse()
        raw = response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AgentAbsent(f"no agent answers on {path}; is it running? try `ztun agent --help`") from error
    except PermissionError as error:
        raise AgentRefused(f"{path} may be opened by root only: run this as root") from error
    except (OSError, http.client.HTTPException) as error:
        raise AgentAbsent(f"the agent on {path} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise AgentRefused(raw.decode(errors="replace").strip())
    return json.loads(raw)
