"""The list of label selectors that says which pods are meant for the mesh. Pure.

It has the form of Istio's chart value
`ambient.enablementSelectors`: pairs of a podSelector and a namespaceSelector, of which one must match whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.kubernetes.objects import DATAPLANE_MODE
from agent.model.label_selector import OPERATORS, LabelSelector, Requirement, exactly


class SelectorError(ValueError):
    """The list cannot be used; the text says where."""


@dataclass(frozen=True, slots=True)
class Enablement:
    """Pods that match `pods`, in namespaces that match `namespaces`."""

    pods: LabelSelector
    namespaces: LabelSelector

    def matches(self, pod: Mapping[str, str], namespace: Mapping[str, str]) -> bool:
        return self.pods.matches(pod) and self.namespaces.matches(namespace)

    def __str__(self) -> str:
        parts = [("pod", self.pods), ("namespace", self.namespaces)]
        return ", ".join(f"{what} with {each}" for what, each in parts if each.requirements) or "every pod"


IN_MESH = Requirement(DATAPLANE_MODE, "In", ("ambient",))
DEFAULT = (
    Enablement(LabelSelector((IN_MESH,)), LabelSelector()),
    Enablement(LabelSelector((Requirement(DATAPLANE_MODE, "NotIn", ("none",)),)), LabelSelector((IN_MESH,))),
)
"""What Istio's chart says."""


def enablements(raw: object) -> tuple[Enablement, ...]:
    """From what a YAML text holds. Raises SelectorError."""
    if not isinstance(raw, list) or not raw:
        raise SelectorError("it takes a list of {podSelector, namespaceSelector}")
    return tuple(_enablement(each, f"[{index}]") for index, each in enumerate(raw))


def _enablement(raw: object, where: str) -> Enablement:
    fields = _fields(raw, where, ("podSelector", "namespaceSelector"))
    if not fields:
        raise SelectorError(f"{where} selects by nothing: every pod of the node would be captured")
    return Enablement(
        _selector(fields.get("podSelector") or {}, f"{where}.podSelector"),
        _selector(fields.get("namespaceSelector") or {}, f"{where}.namespaceSelector"),
    )


def _selector(raw: object, where: str) -> LabelSelector:
    fields = _fields(raw, where, ("matchLabels", "matchExpressions"))
    labels, expressions = fields.get("matchLabels") or {}, fields.get("matchExpressions") or []
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise SelectorError(f"{where}.matchLabels is no table of texts")
    if not isinstance(expressions, list):
        raise SelectorError(f"{where}.matchExpressions is no list")
    others = [_requirement(each, f"{where}.matchExpressions[{i}]") for i, each in enumerate(expressions)]
    return LabelSelector((*exactly({str(key): value for key, value in labels.items()}), *others))


def _requirement(raw: object, where: str) -> Requirement:
    fields = _fields(raw, where, ("key", "operator", "values"))
    key, operator, values = fields.get("key"), fields.get("operator"), fields.get("values") or []
    if not isinstance(key, str) or not key:
        raise SelectorError(f"{where} has no key")
    if operator not in OPERATORS:
        raise SelectorError(f"{where}.operator is {operator!r}: it takes {', '.join(OPERATORS)}")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SelectorError(f"{where}.values is no list of texts")
    if bool(values) != (operator in ("In", "NotIn")):
        raise SelectorError(f"{where}: {operator} takes {'values' if not values else 'no values'}")
    return Requirement(key, operator, tuple(values))


def _fields(raw: object, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise SelectorError(f"{where} is no table")
    for name in raw:
        if name not in known:
            raise SelectorError(f"{where} has a field {name!r}: known are {', '.join(known)}")
    return raw
