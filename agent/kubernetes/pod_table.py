"""The pods of this node as the API tells them, and what follows for each: pure, whatever order news come in.

What counts are the objects themselves and where the CNI plugin put a pod: `claims` follows from what is there, anew for
each pod that news came of. Who is not wanted, and who is just not there, are two things: the
first is let go, the second stays closed until its interface is gone, as its processes may live on for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from agent.enroll.source import Claim, Stance
from agent.enroll.treatment import Asked
from agent.enroll.wish import PodInstance, PodKey, Where
from agent.kubernetes.decision import Rules, decide
from agent.kubernetes.objects import BYPASS_INBOUND, DNS_CAPTURE, HONEST_CONNECT, Namespace, Pod
from agent.kubernetes.reflector import Change, Gone, Listed, Put

SWITCH: Mapping[str | None, bool | None] = {None: None, "true": True, "false": False}
YES, NO = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
"""What Go's strconv.ParseBool takes, by which istio-cni reads its annotations."""


class PodTable:
    """`pods` by name, the one that lives. It knows nothing before pods and namespaces were listed once each."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._namespaces: dict[str, Namespace] = {}
        self._ending: set[str] = set()
        """Namespaces that are gone, while there are pods that were in them."""
        self._are_pods_listed = self._are_namespaces_listed = False
        self._places: dict[str, tuple[str, str]] = {}
        """Where the CNI plugin said that a pod's network namespace is, by uid: sandbox and path."""
        self.pods: dict[PodKey, Pod] = {}
        self._claims: Mapping[PodKey, Claim] = {}
        """What followed the last time; `_changed` are the pods that news came of since, or of what is said of them."""
        self._changed: set[PodKey] = set()

    def hear_pods(self, changes: Iterable[Change[Pod]]) -> None:
        for change in changes:
            match change:
                case Put(pod):
                    self.pods[pod.key] = pod
                    self._changed.add(pod.key)
                case Gone(namespace, name, uid):
                    self._places.pop(uid, None)
                    known = self.pods.get(PodKey(namespace, name))
                    if known is not None and known.uid == uid:
                        del self.pods[known.key]
                        self._changed.add(known.key)
                case Listed():
                    self._are_pods_listed = True
        self._forget_ended()

    def hear_namespaces(self, changes: Iterable[Change[Namespace]]) -> None:
        for change in changes:
            match change:
                case Put(namespace):
                    self._ending.discard(namespace.name)
                    self._namespaces[namespace.name] = namespace
                    self._changed.update(key for key in self.pods if key.namespace == namespace.name)
                case Gone(_, name, _):
                    # Its pods go one by one; until they do, what was decided by its labels holds.
                    self._ending.add(name)
                case Listed():
                    self._are_namespaces_listed = True
        self._forget_ended()

    def put_place(self, uid: str, sandbox: str, netns: str) -> None:
        """What the CNI plugin said: newer than anything that can be found in /proc."""
        self._places[uid] = sandbox, netns
        self._note_places({uid})

    def drop_places(self, is_gone: Callable[[str], bool]) -> None:
        """Of sandboxes that are no more. A pod may have another one by now."""
        gone = {uid for uid, (sandbox, _) in self._places.items() if is_gone(sandbox)}
        for uid in gone:
            del self._places[uid]
        self._note_places(gone)

    def claims(self) -> Mapping[PodKey, Claim] | None:
        """What is to be of each pod; None: nothing is known yet, and what was so far holds.

        The very same answer while nothing has changed: of hundreds of pods one changes at a time.
        """
        if not self._are_pods_listed or not self._are_namespaces_listed:
            return None
        if self._changed:
            claims = dict(self._claims)
            for key in self._changed:
                claim = self.claim_of(key)
                if claim is None:
                    claims.pop(key, None)
                else:
                    claims[key] = claim
            self._claims = claims
            self._changed.clear()
        return self._claims

    def claim_of(self, key: PodKey) -> Claim | None:
        """As in `claims`, of one pod, as soon as it and its namespace are known."""
        pod = self.pods.get(key)
        return self._claim(pod) if pod is not None and not pod.is_terminal else None

    def is_namespace_known(self, name: str) -> bool:
        return name in self._namespaces

    def _forget_ended(self) -> None:
        for name in self._ending - {key.namespace for key in self.pods} if self._ending else ():
            self._ending.discard(name)
            self._namespaces.pop(name, None)

    def _note_places(self, uids: Collection[str]) -> None:
        self._changed.update(key for key, pod in self.pods.items() if pod.uid in uids)

    def _claim(self, pod: Pod) -> Claim:
        namespace, place = self._namespaces.get(pod.namespace), self._places.get(pod.uid)
        is_running = bool(pod.addresses)
        if namespace is None:
            return Claim(pod.uid, Stance.UNDECIDED, f"namespace {pod.namespace} is not known yet")
        decision = decide(pod, namespace, self._rules)
        if not decision.is_wanted:
            return Claim(pod.uid, Stance.UNWANTED, decision.reason, is_running=is_running)
        asked, faults = asked_of(pod)
        reason = decision.reason + faults
        if place is not None:
            _, netns = place
            where = Where(netns=netns)
        elif pod.addresses:
            where = Where(pod=PodInstance(pod.cgroup_uid or pod.uid, pod.addresses))
        else:
            # Only by its addresses a namespace is known to be the pod's own: a foreign process may be in it.
            return Claim(pod.uid, Stance.UNDECIDED, "it has no address yet")
        return Claim(pod.uid, Stance.WANTED, reason, where, asked=asked, is_running=is_running)


def asked_of(pod: Pod) -> tuple[Asked, str]:
    """What the pod's annotations ask for, and what is wrong with them."""
    is_honest, honesty_fault = honesty_of(pod)
    is_bypassed, bypass_fault = bypass_of(pod)
    is_dns_captured, dns_fault = dns_of(pod)
    return Asked(is_honest, is_bypassed, is_dns_captured), honesty_fault + bypass_fault + dns_fault


def honesty_of(pod: Pod) -> tuple[bool | None, str]:
    """What the pod's annotation wants, and what is wrong with it. A pod is captured all the same: it is no secret."""
    asked = pod.honest_connect
    if asked in SWITCH:
        return SWITCH[asked], ""
    return None, f"; its annotation {HONEST_CONNECT} is {asked!r}, neither true nor false: as the node has it"


def bypass_of(pod: Pod) -> tuple[bool, str]:
    """Whether connections to the pod are left alone, and what is wrong with its annotation: then they are captured."""
    is_bypassed, fault = _switch_of(BYPASS_INBOUND, pod.bypass_inbound, "connections are captured")
    return is_bypassed is True, fault


def dns_of(pod: Pod) -> tuple[bool | None, str]:
    """What the pod's own annotation asks for, and what is wrong with it: then it is as the node has it."""
    return _switch_of(DNS_CAPTURE, pod.dns_capture, "as the node has it")


def _switch_of(annotation: str, asked: str | None, otherwise: str) -> tuple[bool | None, str]:
    """What one of Istio's annotations asks for, and what is wrong with it: then it is as `otherwise` says."""
    if asked is None or asked in YES or asked in NO:
        return None if asked is None else asked in YES, ""
    return None, f"; its annotation {annotation} is {asked!r}, neither true nor false: {otherwise}"
