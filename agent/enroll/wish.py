"""Wishes: who wants which pod captured, where to look for it, and who it was when it was found. Plain values.

A wish is apart from what is captured: it says nothing about interfaces or addresses, and it stays when they go.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.enroll.treatment import NOTHING_ASKED, Asked
from agent.model.address import IP
from redirect.netns import NamespaceId


@dataclass(frozen=True, slots=True, order=True)
class PodKey:
    """Which pod, as people name it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class WantedBy(StrEnum):
    """Who asked for a pod to be captured."""

    COMMAND = "ztun enroll"
    KUBERNETES = "Kubernetes"
    ISTIO_CNI = "istio-cni"


@dataclass(frozen=True, slots=True)
class PodInstance:
    """A pod as Kubernetes knows it: the uid that its cgroups carry, and the addresses that its interface must have."""

    uid: str
    addresses: tuple[IP, ...]


@dataclass(frozen=True, slots=True)
class Where:
    """How to find a pod: exactly one of the path of its namespace, a process in it, its interface on this node, what
    Kubernetes knows of it, its namespace itself that another process has handed to this one.

    `started` tells a process from a later one with the same pid: ticks since boot, 0 when not looked up yet.
    """

    netns: str | None = None
    pid: int | None = None
    ifname: str | None = None
    started: int = 0
    pod: PodInstance | None = None
    handed: NamespaceId | None = None

    def __post_init__(self) -> None:
        given = (self.netns, self.pid, self.ifname, self.pod, self.handed)
        if sum(each is not None for each in given) != 1:
            raise ValueError("name the pod by exactly one of netns, pid, ifname, pod and handed")

    def __str__(self) -> str:
        if self.pod is not None:
            return f"the processes of pod {self.pod.uid}"
        if self.handed is not None:
            return f"namespace {self.handed.inode}, which was handed over"
        if self.netns is not None:
            return f"namespace {self.netns}"
        return f"process {self.pid}" if self.pid is not None else f"interface {self.ifname}"


@dataclass(frozen=True, slots=True)
class Binding:
    """Who a pod was when it was first served in its namespace: in there, nobody else may speak for it."""

    namespace: NamespaceId
    service_account: str
    trust_domain: str


@dataclass(frozen=True, slots=True)
class Wish:
    """That a pod be captured. `namespace`: where it was last found; `bound`: None until it was served once.

    `uid`: which of the pods that have had this name, as Kubernetes tells them apart; empty: whichever is there.
    `since_s` is wall-clock time. `service_account`: the one that the pod must have; empty: whichever the control
    plane lists. `asked`: how its connections are to be treated.
    """

    pod: PodKey
    where: Where
    wanted_by: WantedBy = WantedBy.COMMAND
    since_s: float = 0.0
    namespace: NamespaceId | None = None
    bound: Binding | None = None
    uid: str = ""
    service_account: str = ""
    asked: Asked = NOTHING_ASKED
