"""`--status-out`: the status conditions of all objects as a List of the API's, whole or not at all.

    kubectl apply --server-side --subresource=status --field-manager=ztun -f FILE

`lastTransitionTime` is when a condition last became true or false, from one run to the next too: what was written
before is read at the start.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.controlplane.state_dir import StateDirectory, StateError
from agent.controlplane.translate.conditions import Condition, Conditions

Clock = Callable[[], datetime]
API_VERSIONS = {
    "AuthorizationPolicy": "security.istio.io/v1",
    "ConnectionLimit": "ztun.io/v1alpha1",
    "Service": "v1",
    "ServiceEntry": "networking.istio.io/v1",
    "WorkloadEntry": "networking.istio.io/v1",
}
Transition = tuple[str, str, str, str]
"""Kind, namespace and name of an object, and type of a condition."""

log = logging.getLogger(__name__)


class ConditionsFile:
    """For one thread at a time. Raises StateError where an older file is none of this kind."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._directory, self._name, self._clock = StateDirectory(path.parent), path.name, clock
        self._since: dict[Transition, tuple[str, str]] = self._directory.read_json(path.name, _decode, {})
        """Status, and since when."""
        self._written: bytes | None = None
        self._complaint = ""

    def write(self, found: Collection[Conditions]) -> None:
        """Where it cannot be written that is said, and tried again with the next."""
        since: dict[Transition, tuple[str, str]] = {}
        items = [
            self._item(each, since) for each in sorted(found, key=lambda c: (c.kind, c.namespace, c.name))
        ]
        document = {"apiVersion": "v1", "kind": "List", "items": items}
        content = (json.dumps(document, indent=1) + "\n").encode()
        if content == self._written:
            return
        try:
            self._directory.write(self._name, content, 0o644)
        except StateError as error:
            if str(error) != self._complaint:
                log.error("--status-out: %s", error)
            self._complaint = str(error)
            return
        self._since, self._written, self._complaint = since, content, ""

    def _item(self, each: Conditions, since: dict[Transition, tuple[str, str]]) -> dict[str, Any]:
        rows = []
        for condition in each.all:
            key = each.kind, each.namespace, each.name, condition.type
            status = _status(condition)
            before = self._since.get(key)
            moment = before[1] if before and before[0] == status else _time(self._clock())
            since[key] = status, moment
            rows.append(
                {
                    "type": condition.type,
                    "status": status,
                    "reason": condition.reason,
                    "message": condition.message,
                    "lastTransitionTime": moment,
                }
            )
        return {
            "apiVersion": API_VERSIONS[each.kind],
            "kind": each.kind,
            "metadata": {"namespace": each.namespace, "name": each.name},
            "status": {"conditions": rows},
        }


def _status(condition: Condition) -> str:
    return "True" if condition.status else "False"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _decode(value: object) -> dict[Transition, tuple[str, str]]:
    if not isinstance(value, Mapping) or value.get("kind") != "List":
        raise ValueError("want a List of objects with conditions")
    return {
        (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], row["type"]): (
            row["status"],
            row["lastTransitionTime"],
        )
        for item in value["items"]
        for row in item["status"]["conditions"]
    }
