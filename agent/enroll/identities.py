"""For whom this node has certificates: the pods of wishes, as they were judged last, and those that are expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from agent.model.identity import Identity


class Certificates(Protocol):
    """The certificates of this node."""

    def get(self, identity: Identity) -> object | None: ...

    def error(self, identity: Identity) -> str: ...

    def set_in_use(self, identities: Iterable[Identity]) -> None: ...


class IdentitiesInUse:
    """Has certificates fetched, and lets those go that nobody needs."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._judged: frozenset[Identity] = frozenset()
        self._expected: list[Identity] = []

    def judged(self, identities: frozenset[Identity]) -> None:
        """Those of pods that are wished for are these."""
        self._judged = identities
        self._tell()

    def presumed(self, identities: frozenset[Identity]) -> None:
        """Those of pods that are wished for, and not judged yet, are these too: until the next judgement."""
        if not identities <= self._judged:
            self._judged |= identities
            self._tell()

    @contextmanager
    def expecting(self, *identities: Identity | None) -> Iterator[None]:
        """Those of pods that are about to be wished for, or not listed or found yet, are in use as well."""
        expected = [identity for identity in identities if identity is not None]
        if not expected:
            yield
            return
        self._expected += expected
        self._tell()
        try:
            yield
        finally:
            for identity in expected:
                self._expected.remove(identity)
            self._tell()

    def uncertified(self, identity: Identity) -> str:
        """Why there is no certificate; empty when there is one."""
        if self._certificates.get(identity) is not None:
            return ""
        return self._certificates.error(identity) or "not issued yet"

    def _tell(self) -> None:
        self._certificates.set_in_use(self._judged.union(self._expected))
