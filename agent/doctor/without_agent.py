"""What goes on at a node whose agent does not answer, as maps and wishes tell it: who serves, and who is in clear."""

from __future__ import annotations

from pathlib import Path

from agent.enroll.wish_file import WishFile
from redirect.maps import Maps

SERVED = "no agent; its workers serve by the last state"
START_AGAIN = "start it again; its log, or `systemctl status ztun`, says why it ended"
EJECTED = "enrolled, but nothing of it is captured (ejected, or never found): in clear until an agent runs"


def are_served(maps: Maps) -> bool:
    """Whether workers live: every listener goes with the process that has it."""
    return all(maps.slots())


def ejected(directory: Path, maps: Maps | None) -> list[str]:
    """Pods whose wish stands in this run directory while no interface is theirs. Raises OSError.

    One that is only gone is not among them: its interface stays noted until an agent lets go of it.
    """
    captured = set() if maps is None else {text.partition(" ")[0] for text in maps.owners().values()}
    return sorted({str(pod) for pod in WishFile(directory).load()} - captured)


def ejected_words(directory: Path, maps: Maps | None) -> list[str]:
    """The same in a line for each; in their place one that says why it cannot be told."""
    try:
        return [f"{pod}: {EJECTED}" for pod in ejected(directory, maps)]
    except OSError as error:
        return [f"unknown: which pods are enrolled, and not captured, cannot be told ({error})"]
