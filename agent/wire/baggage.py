"""Headers that describe a connection to the other end: `baggage`, `forwarded`, `traceparent`.

They are attribution for telemetry and nothing else: a peer may claim anything in them, so no decision reads
them. Formats: docs/WIRE.md#connect (sent) and docs/WIRE.md#inbound (received).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from agent.model.address import SocketAddress
from agent.model.workload import Workload, WorkloadType

KEYS_OF_WORKLOAD_NAME = tuple(f"k8s.{kind}.name" for kind in ("deployment", "cronjob", "pod", "job"))
_KEY_OF_NAME = {kind: f"k8s.{kind.value}.name" for kind in WorkloadType}
MAX_FORWARDED_BYTES = 1024


def baggage(workload: Workload) -> str:
    """The value describing a workload: known attributes only, in ztunnel's order."""
    return _described(
        ("k8s.cluster.name", workload.cluster_id),
        ("k8s.namespace.name", workload.namespace),
        (_KEY_OF_NAME[workload.workload_type], workload.workload_name),
        ("service.name", workload.canonical_name),
        ("service.version", workload.canonical_revision),
        ("cloud.region", workload.locality.region),
        ("cloud.availability_zone", workload.locality.zone),
    )


@lru_cache(maxsize=4096)
def _described(*pairs: tuple[str, str]) -> str:
    return ",".join([f"{key}={value}" for key, value in pairs if value])


def parse_baggage(lines: Iterable[str]) -> dict[str, str]:
    """Known keys of all header lines; a line that is not ASCII voids everything."""
    found: dict[str, str] = {}
    for line in lines:
        if not line.isascii():
            return {}
        for part in line.split(","):
            key, _, rest = part.partition("=")
            value = rest.partition("=")[0]
            if value:
                found[key] = value
    return found


def forwarded(client: SocketAddress, host: str | None) -> str:
    """`for="<client>"` and, where the Service is known, `;host=<hostname>` (no space, host unquoted)."""
    return f'for="{client}"' + (f";host={host}" if host else "")


def forwarded_host(value: str | None) -> str | None:
    """The `host=` of a received `forwarded` header, or None."""
    if not value or not value.isascii() or len(value) > MAX_FORWARDED_BYTES:
        return None
    for part in value.split(";"):
        if part.startswith("host="):
            return part.removeprefix("host=").strip('"') or None
    return None


def traceparent(trace_id: bytes, span_id: bytes) -> str:
    """W3C trace context, version 00, flags 00; 16 and 8 random bytes."""
    return f"00-{trace_id.hex()}-{span_id.hex()}-00"
