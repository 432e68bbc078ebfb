"""Reader of a label selector in Kubernetes' full form (`matchLabels` and `matchExpressions`).

One that says something else than it seems would choose others than meant, so whatever is unknown in it is an error.
"""

from __future__ import annotations

from agent.controlplane.read.fields import Field
from agent.controlplane.read.schema import LABEL_SELECTOR
from agent.controlplane.read.unknown_fields import unknown_fields
from agent.model.label_selector import OPERATORS, LabelSelector, Requirement, exactly


def read_label_selector(selector: Field) -> LabelSelector:
    for unknown in unknown_fields(selector, LABEL_SELECTOR):
        raise unknown.error
    exact = exactly(selector.get("matchLabels").text_map())
    return LabelSelector((*exact, *map(_requirement, selector.get("matchExpressions").each())))


def _requirement(expression: Field) -> Requirement:
    operator = expression.get("operator").one_of(*OPERATORS)
    values = expression.get("values").texts()
    if bool(values) != (operator in ("In", "NotIn")):
        raise expression.get("values").error(f"{operator} takes {'no values' if values else 'values'}")
    return Requirement(expression.get("key").text(), operator, values)
