"""`--host-traffic kubelet`: keeps the programs told which control group is the kubelet's, whose probes pass.

The kubelet may start again in another group. Until it is found nobody's connections pass by the proxy: they meet
policy, as plaintext from anywhere does. With `all` and `none` there is nothing to follow.
"""

from __future__ import annotations

import asyncio
import logging

from agent.enroll.kernel import KernelSide
from agent.enroll.kubelet_group import KubeletGroup, NoKubeletGroup
from redirect.errors import RedirectError
from redirect.host_senders import NOBODY

log = logging.getLogger(__name__)

POLL_S = 2.0


class HostTraffic:
    """`problem`: why the kubelet's probes meet policy, with the remedy; empty while they do not, or are not to pass."""

    def __init__(self, mode: str, kernel: KernelSide, group: KubeletGroup) -> None:
        self.mode = mode
        self.problem = ""
        self._kernel = kernel
        self._group = group
        self._told: int | None = None

    @property
    def passes(self) -> str:
        """Whose connections from this node to captured pods pass by the proxy."""
        return {"all": "everybody's", "none": "nobody's"}.get(self.mode) or self._group.path or "nobody's"

    async def watch(self) -> None:
        """Until cancelled."""
        while self.mode == "kubelet":
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Once: where the kubelet is now, and the programs told where that has changed."""
        try:
            number = self._group.find()
            problem = ""
        except NoKubeletGroup as error:
            number, problem = NOBODY, f"probes of the kubelet meet policy: {error}"
        try:
            if number != self._told:
                await self._kernel.run(lambda redirection: redirection.let_host(number))
                self._told = number
                log.info("host traffic: connections of %s pass", self._group.path or "nobody on this node")
        except (RedirectError, OSError) as error:
            problem = f"the programs cannot be told where the kubelet is: {error}"
        self.problem = problem
