"""Has a page on loopback answer root alone: who is at the other end of its connection, the kernel says.

ztunnel's admin port is loopback of its own pod, ours that of the node: every process there reaches it, and a browser
on a machine that forwards the port. What comes by the API server's port-forward, or by `kubectl exec`, is root.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agent.admin.server import Handler, Request, Response, text
from agent.model.address import SocketAddress

log = logging.getLogger(__name__)

OwnerOf = Callable[[SocketAddress, SocketAddress], int | None]
"""Of the socket that is open from the first to the second address of this machine: the uid; None: there is none."""
READING = frozenset(("GET", "HEAD", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class RootOnly:
    """What changes nothing is answered to everybody; on the unix socket only root comes anyway."""

    page: Handler
    owner_of: OwnerOf

    async def __call__(self, request: Request) -> Response:
        if request.method not in READING and request.ends is not None:
            reason = self._objection(request, *request.ends)
            if reason:
                log.warning("admin: %s %s from %s: %s", request.method, request.path, request.ends[0], reason)
                return text(f"{reason}\n", 403)
        return await self.page(request)

    def _objection(self, request: Request, client: SocketAddress, server: SocketAddress) -> str:
        if "origin" in request.headers:
            return "refused: a page in a browser asks for it; use curl"
        try:
            owner = self.owner_of(client, server)
        except OSError as error:
            return f"refused: the kernel does not say who asks ({error.strerror}); use agent.sock of the run directory"
        if owner is None:
            return "refused: who asks is not on this node, or has closed its end; ask there, and wait for the answer"
        return "" if owner == 0 else f"refused: it takes root of the node, and uid {owner} asks"
