"""What a check is: a value that says what was looked at, what came of it, and what to do. Pure.

A check fails closed in its words only: what it could not see is `cannot tell`, with the reason, never `ok`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from agent.doctor.site import Site


class Verdict(Enum):
    OK = "ok"
    WARNING = "warning"
    """ztun works, but not as it should."""
    FAILED = "failed"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Check:
    """One answer. `remedy`: what to do, empty where nothing is wrong; `command`: that as it can be typed, if it can."""

    name: str
    looked_at: str
    verdict: Verdict
    words: str
    remedy: str = ""
    command: str = ""

    @property
    def is_fine(self) -> bool:
        return self.verdict is Verdict.OK


@dataclass(frozen=True, slots=True)
class Subject:
    """What a check is about: the maker of its answers."""

    name: str
    looked_at: str

    def ok(self, words: str) -> Check:
        return Check(self.name, self.looked_at, Verdict.OK, words)

    def warning(self, words: str, remedy: str, command: str = "") -> Check:
        return Check(self.name, self.looked_at, Verdict.WARNING, words, remedy, command)

    def failed(self, words: str, remedy: str, command: str = "") -> Check:
        return Check(self.name, self.looked_at, Verdict.FAILED, words, remedy, command)

    def cannot_tell(self, words: str, remedy: str = "", command: str = "") -> Check:
        return Check(self.name, self.looked_at, Verdict.CANNOT_TELL, words, remedy, command)


@dataclass(frozen=True, slots=True)
class Examination:
    """A subject, and how it is looked at. `look` may raise OSError or RedirectError: then nobody can tell.

    `is_of_network`: what it sees depends on the network namespace that it is called in, which has to be the node's.
    """

    subject: Subject
    look: Callable[[Site], Check]
    is_of_network: bool = False
