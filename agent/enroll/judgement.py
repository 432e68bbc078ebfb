"""What is to be served, and what is wrong: pure, from wishes, what was found of them, and the mesh state.

A wish whose pod was found is served when the control plane lists that pod here with the addresses that it has, and
its identity has a certificate. In a namespace where a pod was served before it stays that pod: nobody else may speak
for it there, and a control plane that no longer agrees closes it instead of renaming it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from agent.enroll.enrolled_pod import EnrolledPod, EnrolmentRefused, check, enrolled_pod
from agent.enroll.held import owner_of
from agent.enroll.sighting import Sighting
from agent.enroll.treatment import Asked, Ways
from agent.enroll.trouble import Missing, Trouble
from agent.enroll.wish import Binding, PodKey, Wish
from agent.model.address import IP
from agent.model.identity import Identity
from agent.model.workload import Workload
from agent.state.snapshot import Snapshot
from redirect.place import Place


@dataclass(frozen=True, slots=True)
class Judgement:
    """`identities` are those that certificates are needed for, those of pods that wait among them."""

    pods: Mapping[PodKey, EnrolledPod]
    identities: frozenset[Identity]
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True, slots=True)
class _Verdict:
    pod: EnrolledPod | None = None
    identity: Identity | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A pod, and the very objects that it was made of: of hundreds one changes at a time."""

    workload: Workload
    place: Place
    asked: Asked
    ways: Ways
    uid: str
    pod: EnrolledPod

    def is_of(self, wish: Wish, workload: Workload, place: Place, ways: Ways) -> bool:
        is_same_pod = self.workload is workload and self.place is place and self.uid == wish.uid
        return is_same_pod and self.asked is wish.asked and self.ways is ways


@dataclass(frozen=True, slots=True)
class Judge:
    """`uncertified` says why an identity has no certificate, nothing when it has; `current`: the pods served now.

    `ways`: of the node. `made`: what the last one made, to be used again.
    """

    snapshot: Snapshot
    node: str
    network: str
    uncertified: Callable[[Identity], str]
    current: Mapping[PodKey, EnrolledPod]
    ways: Ways = Ways()
    made: dict[PodKey, Made] = field(default_factory=dict)

    def judge(self, wishes: Mapping[PodKey, Wish], sightings: Mapping[PodKey, Sighting]) -> Judgement:
        """Every wish that was looked for."""
        for key in self.made.keys() - wishes.keys():
            del self.made[key]
        pods: dict[PodKey, EnrolledPod] = {}
        owners: dict[IP, PodKey] = {}
        identities: set[Identity] = set()
        troubles: list[Trouble] = []
        # Those that are served first: a newcomer does not take an address from one of them.
        for key in sorted(wishes.keys() & sightings.keys(), key=lambda key: (key not in self.current, key)):
            verdict = self._wish(wishes[key], sightings[key], owners)
            if verdict.pod is not None:
                pods[key] = verdict.pod
                owners.update((address, key) for address in verdict.pod.addresses)
            if verdict.identity is not None:
                identities.add(verdict.identity)
            if verdict.trouble is not None:
                troubles.append(verdict.trouble)
        return Judgement(pods, frozenset(identities), tuple(troubles))

    def _wish(self, wish: Wish, sighting: Sighting, owners: Mapping[IP, PodKey]) -> _Verdict:
        place = sighting.place
        if place is None or place.refusal:
            return self._not_there(wish, sighting)
        if wish.bound is not None and wish.bound.namespace == place.namespace:
            verdict = self._again(wish, wish.bound, place)
        else:
            verdict = self._first_time(wish, place, owners)
        account = verdict.pod.service_account if verdict.pod is not None else ""
        if account and wish.service_account not in ("", account):
            text = (
                f"the control plane lists it with account {account}, and {wish.wanted_by} says that it runs as "
                f"{wish.service_account}"
            )
            return _Verdict(trouble=_closed(wish.pod, place, Missing.WORKLOAD, text))
        for address in verdict.pod.addresses if verdict.pod is not None else ():
            if address in owners:
                text = f"pod {owners[address]} is enrolled with {address} too: un-enrol one of them"
                return _Verdict(None, verdict.identity, _closed(wish.pod, place, Missing.ADDRESS, text))
        return verdict

    def _not_there(self, wish: Wish, sighting: Sighting) -> _Verdict:
        bound = wish.bound
        account = bound.service_account if bound is not None else ""
        listed = self.snapshot.local_workload(wish.pod.namespace, wish.pod.name, account)
        identity = Identity(listed.trust_domain, listed.namespace, listed.service_account) if listed else None
        current = self.current.get(wish.pod)
        if current is not None and current.place.ifindex in sighting.ends:
            text = f"no longer as it was enrolled: {sighting.text}"
            return _Verdict(current, identity, Trouble(_missing(sighting), text, wish.pod, current.ifname))
        state = "captured and closed" if sighting.ends else "not there"
        return _Verdict(
            None,
            identity,
            Trouble(
                _missing(sighting),
                f"{state}: {sighting.text}",
                wish.pod,
                remedy=f"it is captured as soon as that ends; `ztun unenroll {wish.pod}` ends the wish",
                is_expected=not sighting.ends and not any(self._listed_here(wish.pod)),
            ),
        )

    def _listed_here(self, key: PodKey) -> Iterator[object]:
        workloads = self.snapshot.workloads_named(key.namespace, key.name)
        return (w for w in workloads if not self.node or w.node == self.node)

    def _again(self, wish: Wish, bound: Binding, place: Place) -> _Verdict:
        """The pod of a namespace that it was served in before."""
        key = wish.pod
        current = self.current.get(key)
        if current is not None and current.place.ifindex != place.ifindex:
            current = None
        workload = self.snapshot.local_workload(key.namespace, key.name, bound.service_account)
        if workload is None:
            text = (
                f"enrolled, but the control plane no longer lists it here with account {bound.service_account}: "
                "closed"
            )
            trouble = Trouble(Missing.WORKLOAD, text, key, place.ifname)
            return _Verdict(current, current.identity if current else None, trouble)
        pod = self._pod_of(wish, workload, place)
        if not pod.addresses:
            listed = ", ".join(map(str, workload.addresses)) or "none"
            text = (
                f"enrolled, but none of its addresses ({', '.join(map(str, place.addresses))}) is one "
                f"that the control plane lists ({listed}): closed"
            )
            return _Verdict(current, pod.identity, Trouble(Missing.ADDRESS, text, key, place.ifname))
        return _Verdict(pod, pod.identity)

    def _first_time(self, wish: Wish, place: Place, owners: Mapping[IP, PodKey]) -> _Verdict:
        key = wish.pod
        try:
            workload = check(self.snapshot, self.node, self.network, key, place.addresses, owners)
        except EnrolmentRefused as refusal:
            return _Verdict(trouble=_closed(key, place, refusal.missing, str(refusal)))
        pod = self._pod_of(wish, workload, place)
        reason = self.uncertified(pod.identity)
        if reason:
            text = f"no certificate for {pod.identity}: {reason}"
            return _Verdict(None, pod.identity, _closed(key, place, Missing.CERTIFICATE, text))
        return _Verdict(pod, pod.identity)

    def _pod_of(self, wish: Wish, workload: Workload, place: Place) -> EnrolledPod:
        made = self.made.get(wish.pod)
        if made is None or not made.is_of(wish, workload, place, self.ways):
            treatment = self.ways.treatment(wish.asked)
            own = replace(place, treatment=treatment, owner=owner_of(wish.pod, wish.uid))
            pod = enrolled_pod(workload, own)
            made = Made(workload, place, wish.asked, self.ways, wish.uid, pod)
            self.made[wish.pod] = made
        return made.pod


def likely(
    snapshot: Snapshot, wishes: Mapping[PodKey, Wish], known: Collection[PodKey]
) -> frozenset[Identity]:
    """Whose certificates will be needed for wishes that were never looked for: they can be fetched meanwhile.

    `known`: the others. Only where the control plane lists one such pod here: which of several it is, the look says.
    """
    found = set()
    for key in wishes.keys() - set(known):
        listed = [
            each for each in snapshot.workloads_named(key.namespace, key.name) if snapshot.is_local(each)
        ]
        if len(listed) == 1 and wishes[key].service_account in ("", listed[0].service_account):
            found.add(Identity(listed[0].trust_domain, listed[0].namespace, listed[0].service_account))
    return frozenset(found)


def _closed(key: PodKey, place: Place, missing: Missing, reason: str) -> Trouble:
    return Trouble(
        missing,
        f"captured and closed: {reason}",
        key,
        place.ifname,
        f"it is served as soon as that ends; `ztun unenroll {key}` lets it go",
    )


def _missing(sighting: Sighting) -> Missing:
    return sighting.missing if sighting.missing is not None else Missing.INTERFACE
