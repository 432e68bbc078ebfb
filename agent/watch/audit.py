"""What `ztun audit` is told by a running agent: what it wants against what the kernel has, looked up just now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from agent.enroll.captures import Captures
from agent.enroll.kernel import KernelSide
from redirect import audit
from redirect.audit import Report
from redirect.findings import Finding


class Audit:
    """Writes nothing and mends nothing. `prove` asks the kernel."""

    def __init__(
        self, prove: Callable[[], Awaitable[Iterable[Finding]]], kernel: KernelSide, captures: Captures
    ) -> None:
        self._prove = prove
        self._kernel = kernel
        self._captures = captures

    async def __call__(self) -> Report:
        """Raises RedirectError, OSError."""
        found = tuple(await self._prove())
        pods = {ifindex: str(pod) for ifindex, pod in self._captures.owners.items()}
        return await self._kernel.run(lambda redirection: audit.by_agent(redirection, found, pods))
