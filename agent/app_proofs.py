"""Which observation asks which parts of the agent: WIRING ONLY, beside `agent.app`, which builds those parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agent.model.listener import LISTENERS
from agent.proof.listeners import DIALS_PER_WORKER, ListenerCheck, Served
from agent.proof.prover import Prover
from agent.watch.certificates_check import CertificatesCheck
from agent.watch.checks import WorkersCheck, sockets_in
from agent.watch.kernel_check import KernelCheck
from redirect.findings import Finding
from redirect.sides import PROXY_ADDRESSES

if TYPE_CHECKING:
    from agent.app import Agent


def kernel_check_of(agent: Agent) -> KernelCheck:
    """The one that is asked between the rounds as well."""
    captures = agent.captures
    return KernelCheck(
        lambda: prove_kernel(agent, at_leisure=True),
        lambda: mend_kernel(agent),
        lambda: {ifindex: str(pod) for ifindex, pod in captures.owners.items()},
        agent.figures,
    )


async def prove_kernel(agent: Agent, *, at_leisure: bool = False) -> tuple[Finding, ...]:
    """What of the kernel side is not as it should be, by all who have written to it."""
    return *await agent.enroller.prove(), *await agent.prefilter.prove(at_leisure=at_leisure)


async def mend_kernel(agent: Agent) -> None:
    await agent.enroller.mend()
    await agent.prefilter.mend()


def prover_of(agent: Agent) -> Prover:
    """Every observation by its name, each with what it asks and no more."""
    captures, homes = agent.captures, agent.homes
    served = tuple(Served(row.name, homes[row.side], row.port) for row in LISTENERS)
    return Prover(
        {
            "the kernel side": agent.kernel_check,
            "listeners": ListenerCheck(
                served, PROXY_ADDRESSES[0], sockets_in, DIALS_PER_WORKER * agent.settings.worker_count
            ),
            "workers": WorkersCheck(agent.crew, agent.mesh),
            "mesh gaps": agent.gaps,
            "certificates": CertificatesCheck(agent.keeper, lambda: captures.pods.values(), time.time),
            "traffic": agent.traffic,
            "the run directory": agent.run_directory,
            "revocation lists": agent.revocations,
        },
        wall=time.time,
        clock=time.monotonic,
    )
