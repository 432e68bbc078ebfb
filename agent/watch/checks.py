"""The checks of this agent: which of its parts is asked about which link of the chain.

Each check is a small object that asks one part and puts the answer into findings; what an answer means is decided
in `agent.proof`, what is wrong with a pod in `enroll`, with the kernel side in `redirect`. Built by `app`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agent.enroll.captures import Captures
from agent.enroll.kernel import KernelSide
from agent.enroll.trouble import Missing, Trouble
from agent.mesh_state import MeshState
from agent.model.address import IP, parse_ip
from agent.net.sockets import in_netns
from agent.proof.findings import Finding, Link, Standing
from agent.proof.traffic import Counts, Subject, TrafficWatch
from agent.proof.workers import WorkerSeen, WorkerWatch
from agent.supervisor.crew import Crew

LINK_OF_TROUBLE = {
    Missing.PROCESS: Link.INTERFACE,
    Missing.NAMESPACE: Link.INTERFACE,
    Missing.INTERFACE: Link.INTERFACE,
    Missing.CAPTURE: Link.PROGRAM,
    Missing.POD: Link.CONTROL_PLANE,
    Missing.WORKLOAD: Link.CONTROL_PLANE,
    Missing.ADDRESS: Link.CONTROL_PLANE,
    Missing.CERTIFICATE: Link.CERTIFICATE,
    Missing.RECORD: Link.PROOF,
}


class Told(Protocol):
    """What a worker says of pod addresses, as in `channel.Stats`."""

    @property
    def pods(self) -> Sequence[tuple[str, Sequence[int], str]]: ...

    @property
    def strangers(self) -> Sequence[tuple[str, int]]: ...


Rows = Iterable[tuple[str, Sequence[int], str]]
"""As `channel.Stats.pods`, with failed handshakes of strangers behind the other counts."""


class WorkersCheck:
    """Does every worker live, and judge by the current state?"""

    def __init__(self, crew: Crew, mesh: MeshState) -> None:
        self._crew = crew
        self._mesh = mesh
        self._watch = WorkerWatch()

    async def __call__(self) -> list[Finding]:
        seen = [WorkerSeen(link.slot, link.pid, link.applied, link.silent_s) for link in self._crew.everyone]
        return self._watch.update(self._mesh.revision, seen)


class TrafficCheck:
    """Does what the kernel hands over arrive, and do tunnels and handshakes work? Pod by pod."""

    def __init__(
        self, kernel: KernelSide, crew: Crew, captures: Captures, clock: Callable[[], float]
    ) -> None:
        self._kernel = kernel
        self._crew = crew
        self._captures = captures
        self._clock = clock
        self._watch = TrafficWatch()
        self._ended: dict[IP, list[int]] = {}

    def ended(self, stats: Told | None) -> None:
        """A worker is gone: what it counted stays in the sums, which would say else that nothing is accepted."""
        _add(self._ended, _rows(stats))

    async def __call__(self) -> list[Finding]:
        captured = await self._kernel.run(lambda redirection: redirection.captures())
        served, errors = self._served()
        counts: dict[Subject, Counts] = {}
        last: dict[Subject, str] = {}
        for pod in self._captures.pods.values():
            kernel = captured.get(pod.place.ifindex)
            syns = (kernel.outbound, kernel.inbound) if kernel is not None else (0, 0)
            rows = {ip: served[ip] for ip in pod.addresses if ip in served}
            accepted = [sum(row[at] for row in rows.values()) for at in range(2)]
            counts[Subject(str(pod.key))] = Counts(*syns, *accepted)
            for ip, row in rows.items():
                subject = Subject(str(pod.key), str(ip))
                counts[subject], last[subject] = Counts(0, 0, 0, 0, *row[2:]), errors.get(ip, "")
        return self._watch.update(self._clock(), counts, last)

    def _served(self) -> tuple[dict[IP, list[int]], dict[IP, str]]:
        """What the workers say of each pod address, added up; and the last failure of one of them."""
        captured = {ip for pod in self._captures.pods.values() for ip in pod.addresses}
        self._ended = {ip: row for ip, row in self._ended.items() if ip in captured}
        total = dict(self._ended)
        errors: dict[IP, str] = {}
        for link in self._crew.everyone:
            errors |= _add(total, _rows(link.stats))
        return total, errors


def _rows(stats: Told | None) -> Rows:
    if stats is not None:
        strangers = dict(stats.strangers)
        for text, row, error in stats.pods:
            yield text, (*row, strangers.get(text, 0)), error


def _add(total: dict[IP, list[int]], rows: Rows) -> dict[IP, str]:
    """Add a worker's counts of each pod address; answers the last failure of each that has one."""
    errors = {}
    for text, row, error in rows:
        ip = parse_ip(text)
        total[ip] = [a + b for a, b in zip(total.get(ip, [0] * len(row)), row, strict=True)]
        if error:
            errors[ip] = error
    return errors


def of_pods(troubles: Iterable[Trouble]) -> list[Standing]:
    """What enrolment knows to be wrong with pods, as findings. Known at once, without a round of proofs."""
    return [
        Standing(
            Finding(
                LINK_OF_TROUBLE[trouble.missing],
                str(trouble.pod) if trouble.pod is not None else "",
                trouble.text,
                trouble.remedy,
            ),
            trouble.since_s,
        )
        for trouble in troubles
    ]


def sockets_in(netns: str, family: int, count: int) -> list[socket.socket]:
    """TCP sockets born in a network namespace, for the dials of proofs; fewer where no more can be had."""
    return in_netns(netns, lambda: _sockets(family, count))


def _sockets(family: int, count: int) -> list[socket.socket]:
    made: list[socket.socket] = []
    for _ in range(count):
        try:
            made.append(
                socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            )
        except OSError:
            if not made:
                raise
            break
    return made
