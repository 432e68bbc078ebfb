"""What connections a fault may cost, and what their ends are called. Values, nothing else.

The words are those of the kernel's errors as applications see them. Nothing allows bytes that are wrong, nor an end (a
FIN) before all was said: that would tell an application that all is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Loss(StrEnum):
    """How a connection came to its end."""

    RESET = "reset"
    SILENT = "silent"
    """No answer within the application's patience, or the kernel's."""
    REFUSED = "refused"
    ENDED = "ended early"
    WRONG = "wrong bytes"
    OTHER = "other"


class Reach(StrEnum):
    """Whose connections a fault may touch."""

    NOBODY = "nobody"
    NODE = "node"
    """Those with an end on the node that has the fault."""
    LINK = "link"
    """Those between the nodes."""
    ALL = "all"


_WORDS = (
    ("wrong bytes", Loss.WRONG),
    ("it ended after", Loss.ENDED),
    ("Connection reset", Loss.RESET),
    ("Broken pipe", Loss.RESET),
    ("Connection refused", Loss.REFUSED),
    ("no answer in", Loss.SILENT),
    ("timed out", Loss.SILENT),
)


def loss_of(why: str) -> Loss:
    """What an application's words for the end of a connection mean."""
    return next((loss for word, loss in _WORDS if word in why), Loss.OTHER)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Of one fault. `live`: connections that were there; `new`: that began meanwhile; `heals_s`: from the fault's end
    until both nodes are READY and new connections pass; `link_is_broken`: READY says nothing of paths between nodes.
    """

    heals_s: float
    live: frozenset[Loss] = frozenset()
    new: frozenset[Loss] = frozenset()
    reach: Reach = Reach.NOBODY
    link_is_broken: bool = False

    def of_live(self, loss: Loss, path: Path, node: str) -> bool:
        return loss in self.live and self._touches(path, node)

    def of_new(self, loss: Loss, path: Path, node: str) -> bool:
        return loss in self.new and self._touches(path, node)

    def _touches(self, path: Path, node: str) -> bool:
        match self.reach:
            case Reach.NODE:
                return node in path.nodes
            case Reach.LINK:
                return len(path.nodes) > 1
            case Reach.ALL:
                return True
            case Reach.NOBODY:
                return False


@dataclass(frozen=True, slots=True)
class Path:
    """From a pod to another; pods are named for their nodes."""

    client: str
    server: str

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(f"node-{pod.rpartition('-')[2]}" for pod in (self.client, self.server))

    def __str__(self) -> str:
        return f"{self.client} to {self.server}"


LOSES_NOTHING: frozenset[Loss] = frozenset()
RESETS = frozenset({Loss.RESET})
