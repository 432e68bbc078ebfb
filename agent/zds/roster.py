"""The pods that istio-cni has named, and what follows for each: pure.

What was named stays so until it is taken back by a `del`, or by a later snapshot that lacks it: a lost connection
changes nothing. A pod that is taken back is let go where istio-cni has let it go too; otherwise it is just not there
any more, and stays closed until its interface is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from agent.enroll.source import Claim, Stance
from agent.enroll.wish import PodKey, WantedBy, Where, Wish
from redirect.netns import NamespaceId

NAMED = "istio-cni has named it"


class NamespaceTaken(Exception):
    """Two pods cannot have one network namespace; the text names the other."""


@dataclass(frozen=True, slots=True)
class NamedPod:
    """`uid` as Kubernetes has it; `namespace`: where it is."""

    uid: str
    key: PodKey
    service_account: str
    namespace: NamespaceId

    @property
    def claim(self) -> Claim:
        where = Where(handed=self.namespace)
        return Claim(self.uid, Stance.WANTED, NAMED, where, service_account=self.service_account)


class Roster:
    """`pods` by uid, the one named last behind the others. `is_complete`: a snapshot has been whole once."""

    def __init__(self) -> None:
        self.pods: dict[str, NamedPod] = {}
        self.is_complete = False
        self._heard: set[str] = set()
        """What this connection has named."""
        self._let_go: dict[PodKey, str] = {}

    def begin(self) -> None:
        """A new connection names everything anew."""
        self._heard.clear()

    def add(self, pod: NamedPod) -> None:
        """Raises NamespaceTaken."""
        for other in self.pods.values():
            is_other = other.uid != pod.uid and other.key != pod.key
            # One that this connection has not named may be gone, and its namespace another's.
            if is_other and other.namespace == pod.namespace and other.uid in self._heard:
                raise NamespaceTaken(f"its network namespace is that of pod {other.key}")
        self.pods.pop(pod.uid, None)
        self.pods[pod.uid] = pod
        self._heard.add(pod.uid)
        self._let_go.pop(pod.key, None)

    def keep(self, uid: str, wishes: Mapping[PodKey, Wish]) -> None:
        """A pod stays as it is; `wishes` know those that were named to an earlier agent."""
        self._heard.add(uid)
        if uid not in self.pods:
            self.pods.update((pod.uid, pod) for pod in of_wishes(wishes) if pod.uid == uid)

    def find(self, uid: str, wishes: Mapping[PodKey, Wish]) -> NamedPod | None:
        """Named now, or to an earlier agent."""
        return self.pods.get(uid) or next((pod for pod in of_wishes(wishes) if pod.uid == uid), None)

    def unheard(self, wishes: Mapping[PodKey, Wish]) -> list[NamedPod]:
        """Those of before that this connection has not named."""
        known = {pod.uid: pod for pod in of_wishes(wishes)} | self.pods
        return [pod for uid, pod in known.items() if uid not in self._heard]

    def end(self, pod: NamedPod, *, is_let_go: bool) -> None:
        """It was taken back."""
        self.pods.pop(pod.uid, None)
        self._heard.discard(pod.uid)
        if is_let_go:
            self._let_go[pod.key] = pod.uid

    def settle(self, wishes: Mapping[PodKey, Wish]) -> None:
        """Forget those that were let go, once that has been done."""
        self._let_go = {
            key: uid for key, uid in self._let_go.items() if key in wishes and wishes[key].uid == uid
        }

    def claims(self) -> dict[PodKey, Claim]:
        """Of two with the same name the one that was named last is meant."""
        reason = "istio-cni has taken it out of the mesh"
        gone = {key: Claim(uid, Stance.UNWANTED, reason) for key, uid in self._let_go.items()}
        return gone | {pod.key: pod.claim for pod in self.pods.values()}

    @property
    def namespaces(self) -> Collection[NamespaceId]:
        return {pod.namespace for pod in self.pods.values()}


def of_wishes(wishes: Mapping[PodKey, Wish]) -> Iterator[NamedPod]:
    """The pods that were named to this agent, or to an earlier one."""
    for key, wish in wishes.items():
        if wish.wanted_by is WantedBy.ISTIO_CNI and wish.where.handed is not None:
            yield NamedPod(wish.uid, key, wish.service_account, wish.where.handed)
