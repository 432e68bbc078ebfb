"""The wishes of this node, and their record for the agent after this one.

A new wish is written down before anything is done for it. Where a later change cannot be written down, it holds all
the same and `error` says that the next agent would not know of it; the next change tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.sighting import Sighting
from agent.enroll.source import Step, Take
from agent.enroll.trouble import Missing, Trouble
from agent.enroll.wish import Binding, PodKey, Wish
from agent.enroll.wish_file import WishesDamaged, WishFile
from agent.model.identity import Identity

log = logging.getLogger(__name__)


class WishBook:
    """`wishes`, by pod. `error`: why the file is behind them; empty when it is not."""

    def __init__(self, file: WishFile) -> None:
        self._file = file
        self.wishes: Mapping[PodKey, Wish] = {}
        self.error = ""

    def load(self) -> None:
        """What an earlier agent wrote down; nothing where that is damaged, which is put aside. Raises OSError."""
        try:
            self.wishes = self._file.load()
        except WishesDamaged as error:
            self.wishes = {}
            log.error(
                "%s: it is put aside as %s; pods that are captured stay closed until they are wanted again",
                error,
                self._file.put_aside(),
            )

    @property
    def lost(self) -> tuple[Path, ...]:
        """Where records lie whose wishes are not known, for as long as somebody lets them lie."""
        return self._file.aside

    def troubles(self) -> Iterator[Trouble]:
        """What is wrong with the record."""
        if self.error:
            yield Trouble(Missing.RECORD, self.error)
        if self.lost:
            lost = " and ".join(map(str, self.lost))
            text = (
                f"the record of wishes was damaged, and lies in {lost}: pods of it stay closed where they are "
                "captured, and others are not captured, until they are wanted again"
            )
            remedy = f"enrol those that only people want, then remove {lost}"
            yield Trouble(Missing.RECORD, text, remedy=remedy)

    def add(self, wish: Wish, identity: Identity | None) -> None:
        """A wish, in the place of the pod's former one. Raises OSError; then nothing has changed.

        One that looks for the pod where the former did is the same wish. `identity`: whose the pod is now, as far as
        the control plane says; whoever asks for another one than before means it.
        """
        before = self.wishes.get(wish.pod)
        if before is not None:
            bound = before.bound
            if bound is not None and identity is not None and _is_other(bound, identity):
                bound = None
            base = wish
            if before.where == wish.where:
                asked = replace(before.asked, is_honest=wish.asked.is_honest)
                base = replace(before, wanted_by=wish.wanted_by, asked=asked)
            wish = replace(base, bound=bound)
        self._write({**self.wishes, wish.pod: wish})

    def put_back(self, wish: Wish) -> None:
        """A wish exactly as it was before."""
        self._change({**self.wishes, wish.pod: wish})

    def end(self, key: PodKey) -> None:
        self._change({each: wish for each, wish in self.wishes.items() if each != key})

    def follow(self, steps: Iterable[Step]) -> None:
        """What a source says, all at once."""
        wishes = dict(self.wishes)
        for step in steps:
            wishes.pop(step.pod, None)
            if isinstance(step, Take):
                wishes[step.pod] = step.wish
        self._change(wishes)

    def note_found(self, sightings: Mapping[PodKey, Sighting], pods: Mapping[PodKey, EnrolledPod]) -> None:
        """Where each pod was found, and who it is where it is served."""
        wishes = dict(self.wishes)
        for key, wish in self.wishes.items():
            seen, pod = sightings.get(key), pods.get(key)
            namespace = seen.place.namespace if seen is not None and seen.place is not None else None
            if namespace is not None and namespace != wish.namespace:
                wishes[key] = wish = replace(wish, namespace=namespace)
            if pod is not None and pod.place.namespace is not None:
                bound = Binding(pod.place.namespace, pod.service_account, pod.trust_domain)
                if bound != wish.bound:
                    wishes[key] = replace(wish, bound=bound)
        if wishes != self.wishes or self.error:
            self._change(wishes)

    @property
    def is_kept(self) -> bool:
        """Whether the file still says what was written here."""
        return self._file.is_as_left

    def keep(self) -> None:
        """Write them down again: what was written is gone, or another's."""
        self._change(self.wishes)

    def _change(self, wishes: Mapping[PodKey, Wish]) -> None:
        try:
            self._write(wishes)
        except OSError as error:
            self.wishes = wishes
            before, self.error = self.error, f"wishes cannot be kept for the next agent: {error}"
            if self.error != before:
                log.error("%s", self.error)

    def _write(self, wishes: Mapping[PodKey, Wish]) -> None:
        self._file.save(wishes.values())
        self.wishes, self.error = wishes, ""


def _is_other(bound: Binding, identity: Identity) -> bool:
    return (bound.trust_domain, bound.service_account) != (identity.trust_domain, identity.service_account)
