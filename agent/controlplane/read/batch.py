"""Files that were found changed at one look: read piece by piece, and taken in together when all of them are read.

Together, because an object may have passed from one file to another: taken in one after the other they would clash, or
a policy be gone for a while. Those with security documents are read first, small ones before large ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from agent.controlplane.read.objects import Object
from agent.controlplane.read.overtaking import Guard
from agent.controlplane.read.pieces import Pieces, read_in_pieces
from agent.controlplane.read.scan import Stamp
from agent.controlplane.read.yaml_tree import ManifestError

SIZE_LIMIT_BYTES = 64 * 2**20
SLICE_S = 0.1
"""How long reading goes on at once while other files may change."""
GUARDED = ("AuthorizationPolicy", "PeerAuthentication", "ConnectionLimit")

Known = Mapping[str, tuple[str, Pieces]]
"""File -> its text and what it came to, as it was read last."""


class Batch:
    """`stamps`: the files. What is read of them is in `pieces` (those that are as before are not read), or `unread`."""

    def __init__(self, root: Path, stamps: Mapping[str, Stamp], known: Known) -> None:
        self.stamps = stamps
        self.texts: dict[str, str] = {}
        self.pieces: dict[str, Pieces] = {}
        self.unread: dict[str, ManifestError] = {}
        self._root, self._known = root, known
        self._work = self._steps()

    def go_on(self, clock: Callable[[], float] = time.monotonic, slice_s: float = SLICE_S) -> bool:
        """Read for a slice of time; whether there is more of it."""
        end_s = clock() + slice_s
        return any(clock() >= end_s for _ in self._work)

    def guards(self) -> Iterator[Object]:
        """The security objects of the files that were read."""
        for pieces in self.pieces.values():
            yield from (o for o in pieces.manifest.objects if isinstance(o, Guard))

    def _steps(self) -> Iterator[None]:
        for name in self.stamps:
            loaded = load(self._root, name)
            if isinstance(loaded, ManifestError):
                self.unread[name] = loaded
            elif loaded != self._known.get(name, ("",))[0]:
                self.texts[name] = loaded
            yield
        for name in sorted(self.texts, key=self._turn):
            before = self._known.get(name)
            known = before[1].by_digest if before else {}
            self.pieces[name] = yield from read_in_pieces(name, self.texts[name], known)
            yield

    def _turn(self, name: str) -> tuple[bool, int]:
        text = self.texts[name]
        return not is_guarded(text), len(text)


def is_guarded(text: str) -> bool:
    """Whether there may be security documents in it."""
    return any(kind in text for kind in GUARDED)


def load(root: Path, name: str) -> str | ManifestError:
    """The text of a file, or why there is none."""
    try:
        with open(root / name, "rb") as file:
            raw = file.read(SIZE_LIMIT_BYTES + 1)
        if len(raw) > SIZE_LIMIT_BYTES:
            return ManifestError(f"larger than {SIZE_LIMIT_BYTES} bytes: split it", file=name, line=1)
        # Files that were put together have a mark of byte order in the middle, too.
        text = raw.decode("utf-8-sig").replace("\n\ufeff", "\n")
    except OSError as error:
        return ManifestError(f"cannot be read: {error.strerror}", file=name, line=1)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return ManifestError("not UTF-8", file=name, line=line)
    if not text.strip():
        return ManifestError("it is empty; delete it to take its objects away", file=name, line=1)
    return text
