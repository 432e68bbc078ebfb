"""Label selectors, and the list of them that says which pods are meant for the mesh. Pure.

Semantics of metav1.LabelSelector: all requirements hold; one without any matches everything; `NotIn` and
`DoesNotExist` hold where the label is missing. The list has the form of Istio's chart value
`ambient.enablementSelectors`: pairs of a podSelector and a namespaceSelector, of which one must match whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.kubernetes.objects import DATAPLANE_MODE

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


class SelectorError(ValueError):
    """The list cannot be used; the text says where."""


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels

    def __str__(self) -> str:
        if self.operator == "In" and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        listed = f" ({', '.join(self.values)})" if self.values else ""
        return f"{self.key} {self.operator}{listed}"


@dataclass(frozen=True, slots=True)
class Selector:
    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(each.holds(labels) for each in self.requirements)

    def __str__(self) -> str:
        return " and ".join(map(str, self.requirements)) or "anything"


@dataclass(frozen=True, slots=True)
class Enablement:
    """Pods that match `pods`, in namespaces that match `namespaces`."""

    pods: Selector
    namespaces: Selector

    def matches(self, pod: Mapping[str, str], namespace: Mapping[str, str]) -> bool:
        return self.pods.matches(pod) and self.namespaces.matches(namespace)

    def __str__(self) -> str:
        parts = [("pod", self.pods), ("namespace", self.namespaces)]
        return ", ".join(f"{what} with {each}" for what, each in parts if each.requirements) or "every pod"


IN_MESH = Requirement(DATAPLANE_MODE, "In", ("ambient",))
DEFAULT = (
    Enablement(Selector((IN_MESH,)), Selector()),
    Enablement(Selector((Requirement(DATAPLANE_MODE, "NotIn", ("none",)),)), Selector((IN_MESH,))),
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


def _selector(raw: object, where: str) -> Selector:
    fields = _fields(raw, where, ("matchLabels", "matchExpressions"))
    labels, expressions = fields.get("matchLabels") or {}, fields.get("matchExpressions") or []
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise SelectorError(f"{where}.matchLabels is no table of texts")
    if not isinstance(expressions, list):
        raise SelectorError(f"{where}.matchExpressions is no list")
    exact = [Requirement(str(key), "In", (value,)) for key, value in labels.items()]
    others = [_requirement(each, f"{where}.matchExpressions[{i}]") for i, each in enumerate(expressions)]
    return Selector((*exact, *others))


def _requirement(raw: object, where: str) -> Requirement:
    fields = _fields(raw, where, ("key", "operator", "values"))
    key, operator, values = fields.get("key"), fields.get("operator"), fields.get("values") or []
    if not isinstance(key, str) or not key:
        raise SelectorError(f"{where} has no key")
    if operator not in _OPERATORS:
        raise SelectorError(f"{where}.operator is {operator!r}: it takes {', '.join(_OPERATORS)}")
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
