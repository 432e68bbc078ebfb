"""Reader of ConnectionLimit, a kind of ztun's own, with selectors and sources of the security kinds and as strict."""

from __future__ import annotations

from agent.controlplane.read.fields import Field
from agent.controlplane.read.objects import ConnectionLimit
from agent.controlplane.read.security_kinds import PolicyReader, read_selector
from agent.model import limits
from agent.model.limits import LimitError, Limits, parse_limit

FIELDS = {
    "connections": limits.CONNECTIONS,
    "newConnectionsPerSecond": limits.NEW,
    "bytesPerSecond": limits.BYTES,
}
"""Field -> the limit, as the annotation has it."""


def read_connection_limit(root: Field, stored: bool) -> ConnectionLimit:
    spec = root.get("spec")
    spec.names()  # it is a mapping, or not there
    reader = PolicyReader(root, stored, "ConnectionLimit")
    take = reader.faults.take
    values = [take(_number, spec.get(field), name) for field, name in FIELDS.items()]
    if not any(spec.get(field).present for field in FIELDS):
        reader.faults.found.append(spec.error(f"it limits nothing: write some of {', '.join(FIELDS)}"))
    selector = take(read_selector, spec.get("selector"))
    sources = reader.sources()
    reader.faults.end()
    return ConnectionLimit(
        meta=reader.meta,
        limits=Limits(*values),
        selector=selector,
        sources=sources,
        doubts=reader.doubts,
    )


def _number(field: Field, name: str) -> int | None:
    if not field.present:
        return None
    # 100, "100" and 10M all are what they say.
    least = 0 if field.is_integer else limits.LEAST[name]
    text = field.text() if field.is_text else str(field.integer(least, limits.MOST[name]))
    try:
        return parse_limit(name, text)
    except LimitError as error:
        raise field.error(str(error)) from error
