"""Follows what our own control plane finds wrong with its manifests and concerns this node; never called on istiod.

Each message is the whole set. When the stream is lost the last set stays: what was wrong is not mended by that. Nothing
leaves `run`: what nobody expected is a defect of ours, which is told, and the stream is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc

from agent.defects import Defects
from agent.pb.ztun_pb2 import Findings, FollowRequest
from agent.pb.ztun_pb2_grpc import ManifestsStub
from agent.rpc.endpoint import ControlError, Endpoint
from agent.rpc.retry import Retry, says_no
from agent.rpc.rpc_errors import explain

log = logging.getLogger(__name__)
defects = Defects(log)


@dataclass(frozen=True, slots=True)
class ManifestFinding:
    """`pod` is `namespace/name`, empty if it concerns several or the node; `since` seconds since the epoch."""

    pod: str
    reason: str
    remedy: str
    since: float


class ManifestsClient:
    """Keeps `findings` current."""

    def __init__(
        self,
        endpoint: Endpoint,
        node: str,
        rng: random.Random,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._endpoint, self._node, self._retry = endpoint, node, Retry(rng)
        self._clock, self._sleep = clock, sleep
        self._error = ""
        self.findings: tuple[ManifestFinding, ...] = ()
        self.defect = ""
        """What of ours keeps it from knowing what is wrong; empty: nothing."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            is_no = await self._follow()
            await self._sleep(self._retry.delay_s(is_no=is_no))

    async def _follow(self) -> bool:
        """One stream, to its end; whether it will be the same at the next try."""
        try:
            async with self._endpoint.open() as channel:
                call = ManifestsStub(channel).Follow(  # type: ignore[no-untyped-call]
                    FollowRequest(node=self._node), metadata=self._endpoint.metadata()
                )
                async for message in call:
                    self._error = ""
                    self._take(message)
                    self._retry.succeeded()
                    self.defect = ""
        except ControlError as error:
            self._failed(str(error))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self.findings = ()  # a control plane of a version that does not tell
            self._failed(explain(error, self._endpoint))
            return says_no(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and must not end the agent
            what = "what is wrong with the manifests is not known now"
            self.defect = f"{what}: {defects.note(what, error)}"
            return True
        return False

    def _take(self, message: Findings) -> None:
        since = {(f.pod, f.reason): f.since for f in self.findings}
        now = self._clock()
        self.findings = tuple(
            ManifestFinding(f.pod, f.reason, f.remedy, since.get((f.pod, f.reason), now))
            for f in message.findings
        )
        for finding in self.findings:
            if (finding.pod, finding.reason) not in since:
                log.warning("manifests: %s%s", f"pod {finding.pod}: " if finding.pod else "", finding.reason)

    def _failed(self, reason: str) -> None:
        if reason != self._error:
            log.info("what is wrong with the manifests is not known now: %s", reason)
        self._error = reason
