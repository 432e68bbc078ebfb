"""Tells our own control plane which pods this node captures; never called on istiod.

The whole set goes out each time, so a lost report is repaired by the next. A report is repeated until one
got through, with growing pauses, and again whenever the discovery stream has been made anew. Nothing leaves `run`: what
nobody expected is a defect of ours, and as a report that did not get through.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

import grpc

from agent.defects import Defects
from agent.pb.ztun_pb2 import EnrolledPod, EnrolledReport
from agent.pb.ztun_pb2_grpc import EnrolmentStub
from agent.rpc.endpoint import ControlError, Endpoint
from agent.rpc.retry import Retry, says_no
from agent.rpc.rpc_errors import explain

log = logging.getLogger(__name__)
defects = Defects(log)

DEADLINE_S = 5.0
Pod = tuple[str, str]


class EnrolmentClient:
    """Keeps the control plane's view of this node's captured pods current."""

    def __init__(
        self,
        endpoint: Endpoint,
        node: str,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._node = node
        self._retry = Retry(rng)
        self._sleep = sleep
        self._wanted: tuple[Pod, ...] | None = None
        self._changed = asyncio.Event()
        self.error = ""
        """Why the last report did not get through; empty when it did."""

    def report(self, pods: Iterable[Pod]) -> None:
        """Make this the set to report; returns at once."""
        self._wanted = tuple(sorted(pods))
        self._changed.set()

    def again(self) -> None:
        """The control plane was away, and may know nothing any more: report what was reported before."""
        self._changed.set()

    async def run(self) -> None:
        """Report every change until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._retry.succeeded()
            while (delay_s := await self._report()) is not None:
                await self._sleep(delay_s)

    async def _report(self) -> float | None:
        """Report what is wanted now; None if that got through, or how long to wait before the next try."""
        if self._wanted is None:
            return None
        wanted = [EnrolledPod(namespace=namespace, name=name) for namespace, name in self._wanted]
        try:
            async with self._endpoint.open() as channel:
                reply = await EnrolmentStub(channel).Report(  # type: ignore[no-untyped-call]
                    EnrolledReport(node=self._node, pods=wanted),
                    metadata=self._endpoint.metadata(),
                    timeout=DEADLINE_S,
                )
        except ControlError as error:
            return self._failed(str(error))
        except grpc.aio.AioRpcError as error:
            return self._failed(explain(error, self._endpoint), is_no=says_no(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and must not end the agent
            self.error = defects.note("the control plane was not told which pods are captured", error)
            return self._retry.delay_s(is_no=True)
        for pod in reply.unknown:
            log.warning(
                "the control plane does not know pod %s on this node: peers reach it in plaintext", pod
            )
        self.error = ""
        return None

    def _failed(self, reason: str, *, is_no: bool = False) -> float:
        if reason != self.error:
            log.warning("the control plane was not told which pods are captured: %s", reason)
        self.error = reason
        return self._retry.delay_s(is_no=is_no)
