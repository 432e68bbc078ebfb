"""All files side by side: what is served of each, what is refused, and what came of that. Pure.

A document that cannot be used, or that clashes with another, is refused by itself. It keeps its last good form; where
it never had one, a policy's targets are closed if nobody knows what held before (the first start), and otherwise
nothing changes, as after a refused `kubectl apply`. What disappears from a file in the same moment in which a
document without a good form turns up stays too: it may be the same object under a broken name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.controlplane.read.conflicts import Clash, clashes, outlived, own_addresses
from agent.controlplane.read.manifests import Manifest
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object, Pod, Service
from agent.controlplane.read.refused import Outcome, Refused, renamed, standing_in_for
from agent.controlplane.read.remarks import Remark
from agent.controlplane.read.yaml_tree import ManifestError

Files = Mapping[str, "Manifest | ManifestError"]
"""File -> what it says, or why it cannot be read at all."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is served of each file, `kept` of it in an older form; refusals, files that cannot be read, remarks."""

    objects: Mapping[str, tuple[Object, ...]] = field(default_factory=dict)
    kept: Mapping[str, tuple[Object, ...]] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    unread: Mapping[str, ManifestError] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
    outlived: frozenset[Key] = frozenset()

    def served(self) -> Iterator[Object]:
        """Every object that counts, with what stands in for closed ones."""
        for objects in self.objects.values():
            yield from (o for o in objects if o.meta.key not in self.outlived)
        for refusal in self.refused:
            if refusal.outcome is Outcome.CLOSED and refusal.stand_in is not None:
                yield refusal.stand_in

    @property
    def errors(self) -> tuple[ManifestError, ...]:
        """Everything that is refused, in the order of files."""
        said = [*self.unread.values(), *(error for refusal in self.refused for error in refusal.errors)]
        return tuple(sorted(said, key=lambda e: (e.file, e.line)))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing that could be anything, so that the rest can be served without it."""
        is_missing = any(refusal.is_missing for refusal in self.refused)
        return all(name in self.objects for name in self.unread) and not is_missing


NOTHING = Standing(MappingProxyType({}))


def admit(good: Standing, files: Files, *, is_first: bool = False) -> Standing:
    """What stands now. `good`: what stood before; `is_first`: nobody knows what held before."""
    return _Admission(good, files, is_first).standing()


class _Admission:
    """One admission: the refusals of reading first, then what clashes, until nothing does."""

    def __init__(self, good: Standing, files: Files, is_first: bool) -> None:
        self._good, self._is_first = good, is_first
        self._before: dict[Key, Object] = {
            o.meta.key: o for objects in good.objects.values() for o in objects
        }
        self._read = {name: m for name, m in files.items() if isinstance(m, Manifest)}
        self._unread = {name: m for name, m in files.items() if isinstance(m, ManifestError)}
        self._objects: dict[str, list[Object]] = {name: list(m.objects) for name, m in self._read.items()}
        self._objects |= {n: list(good.objects[n]) for n in self._unread if n in good.objects}
        self._kept = {n: list(good.kept[n]) for n in self._unread if n in good.kept}
        self._refused = [r for r in good.refused if r.place.file in self._unread]
        self._refused += [refusal for m in self._read.values() for refusal in m.refused]
        self._remarks = [r for r in good.remarks if r.place.file in self._unread]
        self._remarks += [remark for m in self._read.values() for remark in m.remarks]
        self._spoken_for: set[int] = set()
        """Refusals, by `id`, for which something was kept."""

    def standing(self) -> Standing:
        self._keep_good_forms()
        dead = self._settle()
        in_order = sorted(self._refused, key=lambda r: (r.place.file, r.place.line))
        refused = self._beside_others([self._with_outcome(refusal) for refusal in in_order], dead)
        return Standing(
            objects={name: tuple(self._objects[name]) for name in sorted(self._objects)},
            kept={name: tuple(objects) for name, objects in self._kept.items() if objects},
            refused=tuple(refused),
            unread=dict(sorted(self._unread.items())),
            remarks=tuple(
                sorted((*self._remarks, *dead.values()), key=lambda r: (r.place.file, r.place.line))
            ),
            outlived=frozenset(dead),
        )

    # -- what documents refused by reading leave standing

    def _keep_good_forms(self) -> None:
        present = {o.meta.key for objects in self._objects.values() for o in objects}
        unknown: list[Refused] = []
        for refusal in self._refused:
            before = self._before.get(refusal.key) if refusal.key else None
            if before is None:
                unknown.append(refusal)
            elif before.meta.key not in present:
                self._keep(refusal.place.file, before)
                present.add(before.meta.key)
                self._spoken_for.add(id(refusal))
        for refusal in unknown:
            for vanished in self._good.objects.get(refusal.place.file, ()):
                if vanished.meta.key not in present and refusal.kind in ("", vanished.meta.kind):
                    self._keep(refusal.place.file, vanished)
                    self._spoken_for.add(id(refusal))

    def _keep(self, name: str, made: Object) -> None:
        self._kept.setdefault(name, []).append(made)
        self._objects[name].append(made)

    # -- what clashes

    def _settle(self) -> dict[Key, Remark]:
        """Refuse what clashes until nothing does; answers the pods that others have outlived."""
        while True:
            home = {id(o): name for name in sorted(self._objects) for o in self._objects[name]}
            everything = [o for name in sorted(self._objects) for o in self._objects[name]]
            dead = outlived(everything)
            # Each turn refuses something new or drops a copy, so there is an end: what stood before had no clash.
            found = list(clashes(sorted(everything, key=self._is_new), dead))
            if not found:
                return dead
            gone = {id(clash.refused) for clash in found}
            for objects_of in (self._objects, self._kept):
                for objects in objects_of.values():
                    objects[:] = [o for o in objects if id(o) not in gone]
            held = {o.meta.key for o in everything if id(o) not in gone}
            for clash in found:
                self._give_way(clash, home[id(clash.refused)], held)

    def _is_new(self, made: Object) -> bool:
        before = self._before.get(made.meta.key)
        return not (before is made or (before == made and before.meta.place.file == made.meta.place.file))

    def _give_way(self, clash: Clash, name: str, held: set[Key]) -> None:
        made = clash.refused
        if clash.is_copy:
            problem = f"it is the same as at {clash.holder.meta.place}; one of them is enough"
            self._remarks.append(Remark(place=made.meta.place, about=str(made.meta), problem=problem))
            return
        refusal = Refused(
            place=made.meta.place,
            errors=(clash.error,),
            kind=made.meta.kind,
            key=None if clash.is_of_names else made.meta.key,
            stand_in=standing_in_for(made) if clash.is_of_names else None,
            node=made.node if isinstance(made, Pod) else "",
            title=str(made.meta),
        )
        self._refused.append(refusal)
        before = self._before.get(made.meta.key)
        if before is not None and before is not made and made.meta.key not in held:
            self._keep(name, before)
            self._spoken_for.add(id(refusal))
            held.add(made.meta.key)

    # -- what came of it

    def _with_outcome(self, refusal: Refused) -> Refused:
        return dataclasses.replace(refusal, outcome=self._outcome(refusal))

    def _beside_others(self, refused: list[Refused], dead: Mapping[Key, Remark]) -> list[Refused]:
        """Stand-ins that take nobody's name, nor an address that somebody else has."""
        standing = [o for objects in self._objects.values() for o in objects if o.meta.key not in dead]
        names = {o.meta.key for o in standing}
        taken = {ip for o in standing for ip in own_addresses(o)}
        result = []
        for refusal in refused:
            stand_in = refusal.stand_in if refusal.outcome is Outcome.CLOSED else None
            if stand_in is not None:
                if stand_in.meta.key in names:
                    stand_in = renamed(stand_in)
                if isinstance(stand_in, Service):
                    free = tuple(ip for ip in stand_in.cluster_ips or () if ip not in taken)
                    stand_in = dataclasses.replace(stand_in, cluster_ips=free)
                    taken.update(free)
                names.add(stand_in.meta.key)
                refusal = dataclasses.replace(refusal, stand_in=stand_in)
            result.append(refusal)
        return result

    def _outcome(self, refusal: Refused) -> Outcome:
        if id(refusal) in self._spoken_for:
            return Outcome.KEPT
        if refusal.place.file in self._unread:
            return refusal.outcome
        earlier = next((r.outcome for r in self._good.refused if r.identity == refusal.identity), None)
        if earlier in (Outcome.CLOSED, Outcome.LEFT_OUT):
            return earlier
        return Outcome.CLOSED if self._is_first else Outcome.LEFT_OUT
