"""Which node a caller is from, by the token of its service account: TokenReview (authentication.k8s.io/v1).

The API says of which pod the token is; where that pod runs the mirror knows. A node's agent is whoever runs under the
one service account that agents have, so nobody else's token opens anything. An answer holds for a minute, because each
certificate is a call of its own; that the pod is still there is looked at each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent.controlplane.kubeapi.mirror import Mirror
from agent.controlplane.serve.access import Code, Refused
from agent.kubernetes.access import Access
from agent.kubernetes.connection import Connection, RequestFailed

AUDIENCE = "istio-ca"
"""What a token must be for, as with istiod: one that leaks from another use opens nothing here."""
PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
HOLDS_S = 60.0
KNOWN_LIMIT = 10_000
POD_NAME, POD_UID = (f"authentication.kubernetes.io/pod-{what}" for what in ("name", "uid"))

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Of whom a token is. `pod`, `uid` are empty where it is bound to no pod."""

    user: str
    pod: str = ""
    uid: str = ""


class Callers:
    """`account`: NAMESPACE/NAME of the agents' service account."""

    def __init__(
        self,
        way: Callable[[], Access],
        mirror: Mirror,
        account: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._way, self._mirror, self._clock = way, mirror, clock
        self._namespace, _, name = account.partition("/")
        self._user = f"system:serviceaccount:{self._namespace}:{name}"
        self._known: dict[bytes, tuple[float, Holder]] = {}
        self._threads = ThreadPoolExecutor(4, "token-review")

    async def node_of(self, token: str) -> str | None:
        """The node; None: nobody knows the token. Raises Refused, with what is wrong with its holder."""
        holder = await self._holder(token)
        if holder is None:
            return None
        if holder.user != self._user:
            raise Refused(Code.PERMISSION_DENIED, f"{holder.user} is not the agents' account, {self._user}")
        if not holder.pod:
            raise Refused(
                Code.UNAUTHENTICATED,
                "the token is bound to no pod, so its node is not known: use a projected volume (serviceAccountToken)",
            )
        node = self._mirror.node_of(self._namespace, holder.pod, holder.uid)
        if node is None:
            raise Refused(
                Code.UNAVAILABLE, f"pod {self._namespace}/{holder.pod} of the token is not known here (yet)"
            )
        return node

    async def _holder(self, token: str) -> Holder | None:
        key = hashlib.sha256(token.encode()).digest()
        now_s = self._clock()
        known = self._known.get(key)
        if known is not None and now_s < known[0]:
            return known[1]
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._review, token)
        except RequestFailed as failed:
            log.error("tokens cannot be reviewed: %s", failed)
            raise Refused(
                Code.UNAVAILABLE, "the Kubernetes API cannot be asked about the token now"
            ) from failed
        holder = holder_of(answer)
        self._known.pop(key, None)
        if holder is not None:
            while len(self._known) >= KNOWN_LIMIT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = now_s + HOLDS_S, holder
        return holder

    def _review(self, token: str) -> bytes:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        body = json.dumps(review).encode()
        return Connection(self._way).write("POST", PATH, body, "application/json", "tokenreviews", "create")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def holder_of(answer: bytes) -> Holder | None:
    """What a TokenReview says; None where it does not say yes for our audience."""
    try:
        status = json.loads(answer)["status"]
        if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
            return None
        user: Mapping[str, Any] = status["user"]
        extra = user.get("extra") or {}
        return Holder(str(user["username"]), _single(extra, POD_NAME), _single(extra, POD_UID))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("the answer to a TokenReview cannot be read: %s: %s", type(error).__name__, error)
        return None


def _single(extra: Mapping[str, Any], name: str) -> str:
    values = extra.get(name)
    return str(values[0]) if isinstance(values, list) and len(values) == 1 else ""
