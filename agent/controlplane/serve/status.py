"""What `ztun status` may say about the control plane, as one value and one file without secrets.

Written to `state-dir/status.json` soon after it changed, whole or not at all, so that it can be read at any time and
after the process has died.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.controlplane.read.objects import Object
from agent.controlplane.read.remarks import Remark, Weight
from agent.controlplane.serve.publisher import Bell
from agent.controlplane.serve.status_value import FILE, NackReport, Row, Status
from agent.controlplane.state_dir import StateDirectory, StateError
from agent.controlplane.translate.conditions import Condition, Conditions
from agent.controlplane.translate.resources import Snapshot

TEXT_LIMIT = 500
REFUSED, KEPT, REMARKED = "refused", "last good form kept", "accepted with remarks"
log = logging.getLogger(__name__)


def row(remark: Remark) -> Row:
    return {
        "file": remark.place.file,
        "line": remark.place.line,
        "document": remark.place.document,
        "object": remark.about,
        "field": remark.field,
        "problem": remark.problem,
        "effect": remark.effect,
        "outcome": remark.outcome,
        "remedy": remark.remedy,
    }


def condition_row(of: Conditions, condition: Condition) -> Row:
    return {
        "object": f"{of.kind} {of.namespace}/{of.name}",
        "condition": condition.type,
        "status": str(condition.status),
        "reason": condition.reason,
        "message": condition.message,
    }


def outcome(remark: Remark) -> str:
    """What came of the document that it is about, in a word."""
    if not remark.is_refusal:
        return REMARKED
    return KEPT if remark.outcome == "kept" else REFUSED


def document_rows(said: Sequence[Remark]) -> tuple[Row, ...]:
    """One for each, the worst that is said of it first found to be so."""
    rows: dict[tuple[str, int, str], Row] = {}
    for each in sorted(said, key=lambda remark: not remark.is_refusal):
        place = each.place
        about = each.about or f"document {place.document or 1}"
        rows.setdefault(
            (place.file, place.document, about),
            {"object": about, "outcome": outcome(each), "file": place.file, "line": place.line},
        )
    return tuple(rows.values())


class StatusBoard:
    """The current Status. `bell` rings when it changes; `save` then writes it to the file."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._saved: Status | None = None
        self._complaint = ""
        self._enrolled: Mapping[str, Sequence[tuple[str, str]]] = {}
        self.bell = Bell()
        self._streams: Counter[str] = Counter()
        self._nacks: dict[tuple[str, str], NackReport] = {}
        self.status = Status()

    def listening(self, address: str, metrics_address: str, manifests: str) -> None:
        self._set(address=address, metrics_address=metrics_address, manifests=manifests)

    def read(
        self,
        is_serving: bool,
        said: Sequence[Remark],
        passed_over: Sequence[str],
        conditions: Sequence[Conditions] = (),
        objects: Collection[Object] = (),
    ) -> None:
        """`objects`: those that count, with those of which something is said."""
        remarked = {remark.about for remark in said}
        by_weight = {weight: [remark for remark in said if remark.weight is weight] for weight in Weight}
        self._set(
            is_serving=is_serving,
            errors=tuple(map(row, by_weight[Weight.REFUSED])),
            no_effect=tuple(map(row, by_weight[Weight.INEFFECTIVE])),
            warnings=(*(str(r) for r in said if not r.is_refusal), *passed_over),
            conditions=tuple(condition_row(each, one) for each in conditions for one in each.all),
            documents=document_rows(said),
            accepted=sum(str(made.meta) not in remarked for made in objects),
        )

    def published(
        self,
        snapshot: Snapshot,
        vips: Mapping[str, tuple[str, ...]],
        enrolled: Mapping[str, Sequence[tuple[str, str]]],
    ) -> None:
        if enrolled is not self._enrolled:
            self._enrolled = enrolled
            self._set(enrolled={node: tuple(map("/".join, pods)) for node, pods in enrolled.items()})
        self._set(addresses=len(snapshot.addresses), policies=len(snapshot.policies), vips=vips)

    def connected(self, node: str) -> None:
        self._streams[node] += 1
        self._set(streams=dict(self._streams))

    def disconnected(self, node: str) -> None:
        self._streams[node] -= 1
        self._streams += Counter()  # drops nodes at zero
        self._set(streams=dict(self._streams))

    def unheard(self, nodes: tuple[str, ...]) -> None:
        self._set(unheard=nodes)

    def refused(self, node: str, type_url: str, names: tuple[str, ...], reason: str) -> None:
        self._nacks[node, type_url] = NackReport(node, type_url, names, reason[:TEXT_LIMIT])
        self._set(nacks=tuple(self._nacks.values()))

    def accepted(self, node: str, type_url: str) -> None:
        if self._nacks.pop((node, type_url), None) is not None:
            self._set(nacks=tuple(self._nacks.values()))

    def _set(self, **changes: Any) -> None:
        status = dataclasses.replace(self.status, **changes)
        if status != self.status:
            self.status = status
            self.bell.ring()

    def save(self) -> bool:
        """Write what is not written yet; whether all is. For one thread at a time.

        Where it cannot be written there is no file: better than one that says what was.
        """
        status = self.status
        if status is self._saved:
            return True
        try:
            self._directory.write_json(FILE, dataclasses.asdict(status), 0o644)
        except StateError as error:
            if str(error) != self._complaint:
                log.error("%s; `ztun control-plane status` cannot say how things are", error)
            self._complaint = str(error)
            self._directory.remove(FILE)
            return False
        self._saved, self._complaint = status, ""
        return True
