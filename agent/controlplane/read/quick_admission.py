"""Changed files that nobody else has to do with, set beside the others without looking at all of them. Pure.

`admission` decides wherever something is refused, or two may clash. Most changes are of neither kind: what is in them
is asked for by nobody else, which a count of all names and addresses tells.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping

from agent.controlplane.read.admission import Standing
from agent.controlplane.read.conflicts import own_addresses
from agent.controlplane.read.manifests import Manifest
from agent.controlplane.read.objects import Object, Service
from agent.controlplane.read.yaml_tree import ManifestError

NOTHING_READ = Manifest()


class Claims:
    """How often each name and address is asked for, in all files; refused documents and kept forms count."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._of: dict[str, list[Hashable]] = {}

    def follow(self, name: str, manifest: Manifest | ManifestError | None, kept: Iterable[Object]) -> None:
        """`manifest` None: the file is gone. Of one that cannot be read everything stays as it was."""
        if isinstance(manifest, ManifestError):
            return
        for claim in self._of.pop(name, ()):
            self._counts[claim] -= 1
            if not self._counts[claim]:
                del self._counts[claim]
        if manifest is not None:
            self._of[name] = [*_claims(manifest), *(c for made in kept for c in _of_object(made))]
            self._counts.update(self._of[name])

    def are_unshared(self, before: Iterable[Manifest], after: Iterable[Manifest]) -> bool:
        """Whether nobody outside of these files asks for what is in them, and inside each but once."""
        old = Counter(claim for manifest in before for claim in _claims(manifest))
        new = Counter(claim for manifest in after for claim in _claims(manifest))
        return all(n == 1 and self._counts[c] == 1 for c, n in old.items()) and all(
            n == 1 and self._counts[c] == old[c] for c, n in new.items()
        )


def quickly(
    good: Standing,
    claims: Claims,
    before: Mapping[str, Manifest | ManifestError],
    changed: Mapping[str, Manifest | ManifestError | None],
) -> Standing | None:
    """What stands after files have changed (None: is gone); None where `admission` has to say it."""
    old = [before.get(name, NOTHING_READ) for name in changed]
    new = [NOTHING_READ if manifest is None else manifest for manifest in changed.values()]
    pairs = [m for m in (*old, *new) if isinstance(m, Manifest) and not m.refused]
    if len(pairs) < len(old) + len(new) or any(n in good.kept or n in good.unread for n in changed):
        return None
    if not claims.are_unshared(pairs[: len(old)], pairs[len(old) :]):
        return None
    objects = dict(good.objects)
    for name, manifest in changed.items():
        if manifest is None:
            objects.pop(name, None)
        elif isinstance(manifest, Manifest):
            objects[name] = manifest.objects
    remarks = [r for r in good.remarks if r.place.file not in changed]
    remarks += (r for m in pairs[len(old) :] for r in m.remarks)
    return dataclasses.replace(
        good,
        objects=objects if objects.keys() == good.objects.keys() else dict(sorted(objects.items())),
        remarks=tuple(sorted(remarks, key=lambda r: (r.place.file, r.place.line))),
    )


def _claims(manifest: Manifest) -> Iterator[Hashable]:
    for made in manifest.objects:
        yield from _of_object(made)
    for refusal in manifest.refused:
        if refusal.key is not None:
            yield refusal.key
        if isinstance(refusal.stand_in, Service):
            yield from refusal.stand_in.cluster_ips or ()


def _of_object(made: Object) -> Iterator[Hashable]:
    yield made.meta.key
    yield from own_addresses(made)
