"""The access log: one line per connection, in ztunnel's plain format or as JSON.

`line` is pure and keeps ztunnel's fields and their order (docs/WIRE.md#logs). Whatever a peer can put
into a field is escaped, so that it can neither end the line nor fake a field or a terminal sequence.
`line_writer` takes finished lines off the data path.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.identity import Identity
from agent.model.workload import Workload
from agent.telemetry.record import Opened, Record

SCOPE = "access"
# Printable ASCII without the quote and the backslash: what JSON would leave as it is.
_HARMLESS = re.compile(r"[ !#-\[\]-~]*\Z")
_BARE = re.compile(r"[A-Za-z0-9._:\[\]-]+\Z")

Field = tuple[str, str | int | float]


def line(record: Record, now_s: float, as_json: bool = False) -> str:
    """The line for a connection that ended at `now_s` (Unix seconds), without its newline."""
    level = "error" if record.is_failed else "info"
    if as_json:
        return _line(level, "connection complete", completed_fields(record), now_s, as_json)
    return _head(level, "connection complete", now_s) + _completed_text(record)


def refused_line(
    direction: Direction,
    source: SocketAddress,
    destination: SocketAddress,
    error: str,
    now_s: float,
    as_json: bool = False,
) -> str:
    """The line for a connection refused before its request was built (no metric counts it)."""
    fields: list[Field] = [
        ("src.addr", str(source)),
        ("dst.addr", str(destination)),
        ("direction", direction.value),
        ("error", error),
    ]
    return _line("warn", "connection failed", fields, now_s, as_json)


def spared_line(count: int, now_s: float, as_json: bool = False) -> str:
    """The line that stands for `count` refused connections that came too fast for one each."""
    return _line("warn", "more connections failed", [("connections", count)], now_s, as_json)


def opened_line(opened: Opened, now_s: float, as_json: bool = False) -> str:
    """The debug line at the start of a connection."""
    return _line("debug", "connection opened", opened_fields(opened), now_s, as_json)


def lost_line(count: int, now_s: float, as_json: bool = False) -> str:
    """The line that stands where `count` lines are missing."""
    return _line(
        "warn",
        "lines lost: the reader of this log was too slow, or its disk full",
        [("lines", count)],
        now_s,
        as_json,
    )


def opened_fields(opened: Opened) -> list[Field]:
    """Who talks to whom; fields that are not known are left out."""
    hbone, service = opened.authority, opened.service
    hostname = service.hostname if service is not None else None
    found = [
        ("src.addr", str(opened.source_address)),
        *_end("src", opened.source, str(opened.source_identity or "")),
        ("dst.addr", str(opened.destination_address)),
        ("dst.hbone_addr", hbone),
        ("dst.service", hostname),
        *_end("dst", opened.destination, str(opened.destination_identity or "")),
        ("direction", opened.direction.value),
    ]
    return [(key, value) for key, value in found if value]


def completed_fields(record: Record) -> list[Field]:
    """All fields of a completed connection; `error` begins with the name of the outcome."""
    sent, received = record.reported_bytes
    fields = opened_fields(_with_destination(record))
    fields += [
        ("bytes_sent", sent),
        ("bytes_recv", received),
        ("duration", f"{int(record.duration_s * 1000)}ms"),
    ]
    return fields + _ending(record)


def _with_destination(record: Record) -> Opened:
    """What was opened. Where it failed before the other end had proven who it is, with the identity it was to prove.

    Whoever looks for a reason needs both ends; that nothing was proven is in `error`, and no metric says otherwise.
    """
    opened = record.opened
    if (
        record.is_failed
        and opened.destination_identity is None
        and opened.direction is Direction.OUTBOUND
        and opened.authority is not None
        and opened.destination is not None
    ):
        return opened.proven(opened.destination.identity)
    return opened


def _ending(record: Record) -> list[Field]:
    """The fields that most connections do not have."""
    fields: list[Field] = []
    if record.is_failed or record.detail:
        detail = record.detail or record.outcome.hint
        fields.append(("error", f"{record.outcome.name}: {detail}"))
    fields += [(f"{name}_ms", round(seconds * 1000, 3)) for name, seconds in record.phases]
    return fields


def _completed_text(record: Record) -> str:
    """`completed_fields` as text. Every connection pays for this: what stays the same is made once."""
    opened, service = _with_destination(record), record.opened.service
    sent, received = record.reported_bytes
    texts = [
        f"src.addr={opened.source_address}",
        _end_text("src", opened.source, opened.source_identity),
        f"dst.addr={opened.destination_address}",
        _text("dst.hbone_addr", opened.authority) if opened.authority else "",
        _text("dst.service", service.hostname) if service is not None else "",
        _end_text("dst", opened.destination, opened.destination_identity),
        f'direction="{opened.direction.value}" bytes_sent={sent} bytes_recv={received}'
        f' duration="{int(record.duration_s * 1000)}ms"',
    ]
    if record.is_failed or record.detail or record.phases:
        texts += [f"{key}={_plain(key, value)}" for key, value in _ending(record)]
    return " ".join(filter(None, texts))


def _end_text(side: str, workload: Workload | None, identity: Identity | None) -> str:
    if workload is None:
        return _text(f"{side}.identity", str(identity)) if identity else ""
    name = workload.name or workload.canonical_name
    return _known_end_text(side, name, workload.namespace, identity, workload.cluster_id)


@lru_cache(maxsize=4096)
def _known_end_text(side: str, name: str, namespace: str, identity: Identity | None, cluster: str) -> str:
    fields = _known_end(side, name, namespace, str(identity or ""), cluster)
    return " ".join([_text(key, value) for key, value in fields if value])


@lru_cache(maxsize=4096)
def _text(key: str, value: str) -> str:
    return f"{key}={_plain(key, value)}"


def _end(side: str, workload: Workload | None, identity: str) -> list[tuple[str, str | None]]:
    if workload is None:
        return [(f"{side}.identity", identity)]
    name = workload.name or workload.canonical_name
    return [*_known_end(side, name, workload.namespace, identity, workload.cluster_id)]


def _known_end(
    side: str, name: str, namespace: str, identity: str, cluster: str
) -> tuple[tuple[str, str], ...]:
    return (
        (f"{side}.workload", name),
        (f"{side}.namespace", namespace),
        (f"{side}.identity", identity),
        (f"{side}.cluster", cluster),
    )


def _line(level: str, message: str, fields: list[Field], now_s: float, as_json: bool) -> str:
    if as_json:
        head = {"level": level, "time": _time(now_s), "scope": SCOPE, "message": message}
        return json.dumps(head | dict(fields), separators=(",", ":"))
    text = " ".join([f"{key}={_plain(key, value)}" for key, value in fields])
    return _head(level, message, now_s) + text


def _head(level: str, message: str, now_s: float) -> str:
    return f"{_time(now_s)}\t{level}\t{SCOPE}\t{message}\t"


def _time(now_s: float) -> str:
    microseconds = round(now_s * 1_000_000)
    return f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06d}Z"


@lru_cache(maxsize=4)
def _second(now_s: int) -> str:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _plain(key: str, value: str | int | float) -> str:
    """Addresses and numbers bare, strings quoted; an address that is not one is quoted too."""
    if not isinstance(value, str):
        return str(value)
    if key.endswith("addr") and _BARE.match(value):
        return value
    return f'"{value}"' if _HARMLESS.match(value) else json.dumps(value)
