"""What limits of pods mean for a connection, and for a pod, in words: from the agent's pages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.doctor.check import Verdict
from agent.model.counted import counted

Row = Mapping[str, Any]
UNITS = {"connections": "connections", "new_per_s": "new ones a second", "bytes_per_s": "bytes a second"}
NOBODY = "clients without an identity"


def of_flow(said: Row, who: str, clients: Iterable[Row] | None, *, is_open: bool) -> tuple[Verdict, str]:
    """Whether one more is let in. `said` of `/explain`, `clients` of `/limits`; None: they could not be had.

    `is_open`: it is one of them, and no more.
    """
    words = f"{who or NOBODY} may have {_bounds(said)} at {said['pod']}"
    most = said["connections"]
    if most is None:
        return Verdict.OK, words
    if not said["is_here"]:
        return Verdict.OK, f"{words}; how many are open is known on the node of that pod"
    if clients is None:
        return Verdict.CANNOT_TELL, f"{words}; how many are open was not said"
    count = next((each["open"] for each in clients if (each["pod"], each["client"]) == (said["pod"], who)), 0)
    words += f"; {count} of {most} are open"
    if count >= most and not is_open:
        return Verdict.FAILED, f"{words}: one more is refused (LIMITED)"
    return Verdict.OK, words


def of_pod(pod: str, page: Row) -> Iterator[tuple[Verdict, str]]:
    """Each limit of it, then each client that has connections. `page`: `/limits`."""
    for limit in page["limits"]:
        if limit["pod"] == pod:
            whom = " or ".join(limit.get("from", ())) or limit["clients"]
            yield (
                Verdict.OK,
                f"{limit['limit']}: {_bounds(limit)} for {'each client' if whom == 'each' else whom}",
            )
    for client in page.get("clients", ()):  # one of an older version does not say
        if client["pod"] == pod:
            most = client["connections"]
            words = f"{client['client'] or NOBODY} has {counted(client['open'], 'connection')} open"
            if most is None:
                yield Verdict.OK, words
            elif client["open"] < most:
                yield Verdict.OK, f"{words}, of {most}"
            else:
                yield Verdict.WARNING, f"{words}, of {most}: one more is refused (LIMITED)"


def _bounds(row: Row) -> str:
    by = row.get("by", {})
    parts = []
    for kind, unit in UNITS.items():
        if row[kind] is not None:
            parts.append(f"{row[kind]} {unit}{f' ({by[kind]})' if kind in by else ''}")
    return ", ".join(parts)
