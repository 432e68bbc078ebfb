"""Where a doctor looks: an instance of ztun on this node, the options it has or would have, and its agent's answers.

Everything is read in the calling thread's network namespace, or in the one that the site names (the node of a lab), and
the agent, where one runs, is asked once for each page. Nothing is written but what a check says that it tries, and that
is taken away again.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from agent.admin import client
from agent.config import Config
from redirect import lifetime, netns
from redirect.errors import LayoutMismatch
from redirect.layout import LAYOUT_HASH
from redirect.lifetime import Mounts
from redirect.maps import Maps
from redirect.pins import Pins

PATIENCE_S = 0.6
"""Of one question to anybody: a doctor answers within a second, whoever else does not."""
CNI_CONF_DIR = Path("/etc/cni/net.d")
_CREDENTIALS = struct.Struct("3i")


class Agent:
    """The agent that runs, or not. Pages are asked for when a check wants them, each once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Any] = {}
        self._lock = Lock()

    def page(self, target: str) -> Any:
        """Its JSON answer. Raises AgentAbsent, AgentRefused."""
        with self._lock:
            if target not in self._answers:
                try:
                    self._answers[target] = client.ask(self.path, "GET", target, patience_s=PATIENCE_S)
                except (client.AgentAbsent, client.AgentRefused) as error:
                    self._answers[target] = error
            answer = self._answers[target]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def pid(self) -> int:
        """Of whoever listens on its socket; 0: nobody does."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            try:
                sock.connect(str(self.path))
            except OSError:
                return 0
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(raw)[0])


@dataclass(frozen=True, slots=True)
class Site:
    """`settings`: of the agent that runs, else those that one would be started with. `run_dir`: its sockets.

    `netns`: the node's network namespace, None for that of the calling thread.
    """

    instance: str
    run_dir: Path
    settings: Config
    agent: Agent
    cni_dir: Path = CNI_CONF_DIR
    look: Callable[[], Mounts] = lifetime.look
    """Says what is mounted, here and for good."""
    netns: Path | None = None

    @property
    def pins(self) -> Pins:
        return Pins(self.instance, self.run_dir, self.look)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread in the node's network namespace. Raises OSError."""
        if self.netns is None:
            yield
            return
        with netns.entered(self.netns):
            yield

    @contextmanager
    def maps(self) -> Iterator[Maps | None]:
        """The pinned maps; None: there are none. Raises LayoutMismatch for those of another version, OSError."""
        pins = self.pins
        if not pins.is_complete:
            others = [path.name for path in pins.generations()]
            if others:
                raise LayoutMismatch(
                    f"the maps are of layout {', '.join(others)}, this version reads {LAYOUT_HASH}: use the version "
                    "that made them"
                )
            yield None
            return
        with Maps(pins.generation) as maps:
            yield maps
