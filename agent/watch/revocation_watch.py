"""Follows the file of revocation lists: tells what is in force when it changes, and says when it cannot be used.

What was read last stays in force, whatever becomes of the file. It is looked at by its status, through links: so it
does not matter whether it is written, replaced, or a link above it is turned, as Kubernetes does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from agent.identity.revocation_file import BadList, ReadList, is_signed_by_any, read_lists
from agent.model.counted import counted
from agent.proof.findings import Finding, Link
from agent.start_error import StartError
from agent.telemetry import families
from agent.telemetry.metrics import Sample

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
SETTLED_S = 2.0
"""What was not written for so long is not read again before it changes."""
REMEDY = "the lists that were read last are in force: mend the file"
Told = Callable[[tuple[ReadList, ...]], None]


class RevocationWatch:
    """`tell` hears of the lists each time they change. `wall` is seconds since the epoch. No path: there is no file.

    `authorities`: those that this node knows, of its own pods' certificates.
    """

    def __init__(
        self,
        path: str,
        tell: Told,
        wall: Callable[[], float],
        authorities: Callable[[], frozenset[x509.Certificate]] = frozenset,
    ) -> None:
        self._is_used = bool(path)
        self._authorities = authorities
        self._judged: tuple[object, object] | None = None
        self._unsigned: tuple[str, ...] = ()
        self._path, self._tell, self._wall = Path(path), tell, wall
        self._seen: tuple[int, ...] | None = None
        self._is_emptied = False
        self._expired: frozenset[str] = frozenset()
        self.lists: tuple[ReadList, ...] = ()
        self.problem = ""

    def begin(self) -> None:
        """Read it for the first time. One that is not there may come; raises StartError for one that cannot be used."""
        if not self._is_used:
            return
        try:
            self._take(self._status())
        except FileNotFoundError:
            self._fail("it is not there; nobody is revoked until it comes")
        except (OSError, BadList) as error:
            raise StartError(
                f"--crl-path: {self._path} cannot be used: {_said(error)}; without it revoked peers would be let in: "
                "mend the file, or leave the option out"
            ) from error

    async def run(self) -> None:
        while self._is_used:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Take what has changed, if it can be used."""
        try:
            status = self._status()
            if status != self._seen or self._is_emptied:
                self._seen = None
                self._take(status)
        except OSError as error:
            self._seen = None
            self._fail(_said(error))
        except BadList as error:
            # A large one takes its time. One being written may change within what the clock of files tells apart.
            self._seen = status if self._wall() - status[3] / 1e9 > SETTLED_S else None
            self._fail(str(error))
        self._note_expired()
        self._note_unsigned()

    async def __call__(self) -> list[Finding]:
        """As a check of the prover."""
        return [Finding(Link.CERTIFICATE, "", text, remedy) for text, remedy in self._troubles()]

    def samples(self) -> Iterable[Sample]:
        if not self._is_used:
            return
        yield families.CRL_USABLE, (), int(not self.problem)
        yield families.CRL_LISTS, (), len(self.lists)
        yield families.CRL_EXPIRED, (), len(self._expired)
        yield families.CRL_UNSIGNED, (), len(self._unsigned)
        yield families.CRL_SERIALS, (), sum(len(each.revoked.serials) for each in self.lists)

    def _status(self) -> tuple[int, ...]:
        found = os.stat(self._path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _take(self, status: tuple[int, ...]) -> None:
        lists = read_lists(self._path.read_bytes())
        # Whoever writes it in place empties it first: that nobody is revoked any more holds from the next look on.
        if self.lists and not lists and not self._is_emptied:
            self._is_emptied = True
            return
        self._is_emptied = False
        if self.problem:
            log.info("%s can be used again", self._path)
        self._seen, self.problem = status, ""
        if lists != self.lists:
            self.lists = lists
            revoked = sum(len(each.revoked.serials) for each in lists)
            log.info(
                "%s: %s, %s",
                self._path,
                counted(len(lists), "revocation list"),
                counted(revoked, "certificate"),
            )
            self._tell(lists)
        self._note_expired()

    def _fail(self, problem: str) -> None:
        self._is_emptied = False
        if problem != self.problem:
            self.problem = problem
            log.error("%s cannot be used: %s; what was read before stays in force", self._path, problem)

    def _note_expired(self) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        expired = frozenset(
            e.issuer for e in self.lists if e.next_update is not None and e.next_update <= now
        )
        for issuer in sorted(expired - self._expired):
            log.warning("the revocation list of '%s' is out of date; it stays in force", issuer)
        self._expired = expired

    def _note_unsigned(self) -> None:
        """Nobody is revoked by those, unless a peer's chain holds the authority: an old one's, or a forged one."""
        known = self._authorities()
        if not known or (self.lists, known) == self._judged:
            return
        self._judged = self.lists, known
        before = self._unsigned
        self._unsigned = tuple(each.issuer for each in self.lists if not is_signed_by_any(each, known))
        for issuer in sorted(set(self._unsigned) - set(before)):
            log.warning(
                "the revocation list of '%s' is signed by no authority that is known here: it revokes nobody but whom"
                " the one that has signed it has issued",
                issuer,
            )

    def _troubles(self) -> Iterable[tuple[str, str]]:
        if self.problem:
            yield f"the revocation lists in {self._path} cannot be used: {self.problem}", REMEDY
        for issuer in sorted(self._expired):
            text = f"the revocation list of '{issuer}' in {self._path} is out of date"
            yield text, "it stays in force: put the issuer's new one there"


def _said(error: OSError | BadList) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
