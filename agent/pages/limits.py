"""`/limits`: what pods of this node let each client have, and what those have that are connected now.

Workers list their connections as for `/connections`; here they are counted by client, over all workers. So it is what
is open, not what the table of limits counts: where that could not count a connection, it is here all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.admin.server import Request, Response, as_json
from agent.model.address import SocketAddress
from agent.model.connection import Connection
from agent.model.identity import Identity
from agent.model.limits import ConnectionLimit
from agent.model.policy import Match, ServiceAccountMatch, StringMatch, StringMatchKind
from agent.model.workload import Workload
from agent.policy.limits import Bound, bounds_of
from agent.policy.match import GROUPS, subject_of
from agent.state.store import Store
from agent.supervisor.crew import Crew

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LimitsPage:
    store: Store
    crew: Crew

    async def __call__(self, _: Request) -> Response:
        snapshot = self.store.current
        limited = sorted(
            (each for each in snapshot.local_workloads() if each.limits), key=lambda each: each.uid
        )
        # Connections may be many: nobody is asked for them where none is limited.
        answers = await self.crew.ask_all("connections") if limited else []
        rows = [row for answer in answers if isinstance(answer, list) for row in answer]
        return as_json(
            {
                "limits": [limit_row(workload, limit) for workload in limited for limit in workload.limits],
                "clients": list(client_rows(limited, rows)),
            }
        )


def limit_row(workload: Workload, limit: ConnectionLimit) -> Row:
    return {
        "pod": name_of(workload),
        "limit": limit.name,
        "clients": "some" if limit.clients else "each",
        "from": [source_words(match) for match in limit.clients],
        "connections": limit.limits.connections,
        "new_per_s": limit.limits.new_per_second,
        "bytes_per_s": limit.limits.bytes_per_second,
    }


def client_rows(limited: Iterable[Workload], rows: Iterable[Mapping[str, str]]) -> Iterator[Row]:
    """Of each client that is connected to one of these pods: how many it has open, and the bounds that hold for it.

    `rows` are those of `/connections`. `client` is empty for all that have no identity, which are one client together.
    Who has most is first.
    """
    here = {name_of(workload): workload for workload in limited}
    counts: Counter[tuple[str, str]] = Counter()
    ends: dict[tuple[str, str], Connection] = {}
    for row in rows:
        if row["direction"] == "inbound" and row["pod"] in here:
            key = row["pod"], row["client"]
            counts[key] += 1
            if key not in ends:
                ends[key] = _connection(row)
    for (pod, client), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        yield {"pod": pod, "client": client, "open": count} | bound_fields(here[pod], ends[pod, client])


def bound_fields(workload: Workload, connection: Connection) -> Row:
    """What holds for this client at this pod, the lowest of each kind, and by which limit."""
    bounds = bounds_of(workload.limits, subject_of(connection))
    kinds: dict[str, Bound | None] = {
        "connections": bounds.connections,
        "new_per_s": bounds.new_per_second,
        "bytes_per_s": bounds.bytes_per_second,
    }
    most = {kind: bound and bound.most for kind, bound in kinds.items()}
    return {**most, "by": {kind: bound.name for kind, bound in kinds.items() if bound is not None}}


def source_words(match: Match) -> str:
    """As a ConnectionLimit has it: `principals=a,b notNamespaces=c`."""
    found = []
    for group in GROUPS:
        is_not = False
        for values in group.lists(match):
            name = f"not_{group.name}" if is_not else group.name
            first, *more = name.split("_")
            if values:
                found.append(f"{first}{''.join(map(str.capitalize, more))}={','.join(map(_word, values))}")
            is_not = True
    return " ".join(found)


def name_of(workload: Workload) -> str:
    return f"{workload.namespace}/{workload.name}"


def _connection(row: Mapping[str, str]) -> Connection:
    identity = Identity.parse(row["client"]) if row["client"] else None
    return Connection(SocketAddress.parse(row["src"]), SocketAddress.parse(row["actual_dst"]), identity)


def _word(value: object) -> str:
    if isinstance(value, StringMatch):
        before = "*" if value.kind in (StringMatchKind.SUFFIX, StringMatchKind.PRESENCE) else ""
        return f"{before}{value.value}{'*' if value.kind is StringMatchKind.PREFIX else ''}"
    if isinstance(value, ServiceAccountMatch):
        return f"{value.namespace}/{value.service_account}"
    return str(value)
