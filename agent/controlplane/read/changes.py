"""What has changed from one standing to the next, as objects: who is gone and who has come. Pure.

An object that is another now is both; one that stands in another place, and is the same, is neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass

from agent.controlplane.read.admission import Standing
from agent.controlplane.read.meta import Key
from agent.controlplane.read.objects import Object
from agent.controlplane.read.refused import Outcome


@dataclass(frozen=True, slots=True)
class Changes(Sized):
    """By key; what is in both is another object now."""

    gone: Mapping[Key, Object]
    come: Mapping[Key, Object]

    def __len__(self) -> int:
        return len(self.gone) + len(self.come)

    def __iter__(self) -> Iterator[Object]:
        yield from self.gone.values()
        yield from self.come.values()


def between(before: Standing, after: Standing) -> Changes:
    """Costs little where little has changed: what files have in common is not looked at."""
    if before.outlived != after.outlived:
        return _without_equals(before.served(), after.served())
    gone: list[Object] = list(_stand_ins(before))
    come: list[Object] = list(_stand_ins(after))
    for name in before.objects.keys() | after.objects.keys():
        old, new = before.objects.get(name, ()), after.objects.get(name, ())
        if old is not new:
            known = {id(o) for o in old}
            kept = {id(o) for o in new}
            gone += (o for o in old if id(o) not in kept and o.meta.key not in before.outlived)
            come += (o for o in new if id(o) not in known and o.meta.key not in after.outlived)
    return _without_equals(gone, come)


def _without_equals(gone: Iterable[Object], come: Iterable[Object]) -> Changes:
    before = {o.meta.key: o for o in gone}
    after = {o.meta.key: o for o in come}
    for key in [key for key, made in after.items() if before.get(key) == made]:
        del before[key], after[key]
    return Changes(before, after)


def _stand_ins(standing: Standing) -> Iterator[Object]:
    for refusal in standing.refused:
        if refusal.outcome is Outcome.CLOSED and refusal.stand_in is not None:
            yield refusal.stand_in
