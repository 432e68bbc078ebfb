"""Limits of a workload, as the extension of its message by which they travel (`ztun.proto`), both ways.

A match is written as in a policy (docs/WIRE.md#policies), and says what a client is called: one of addresses or ports
is refused, as what is counted is an identity's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from agent.model.limits import ANNOTATION, BYTES, LEAST, MOST, ConnectionLimit, LimitError, Limits
from agent.model.policy import Match, StringMatch, StringMatchKind
from agent.pb import authorization_pb2, ztun_pb2

TYPE_URL = "type.googleapis.com/ztun.v1.ConnectionLimits"
STRINGS = ("namespaces", "not_namespaces", "principals", "not_principals")
ACCOUNTS = ("service_accounts", "not_service_accounts")

OTHERS = tuple(
    f"{no}{name}" for name in ("source_ips", "destination_ips", "destination_ports") for no in ("", "not_")
)
HIGHEST = max(MOST.values())


def decode_limits(
    extensions: Iterable[Any], match: Callable[[str, Any], Match]
) -> tuple[ConnectionLimit, ...]:
    """Of the extensions of a workload; those of others are theirs. Raises LimitError, and what `match` does."""
    message = ztun_pb2.ConnectionLimits()
    for extension in extensions:
        if extension.name == ANNOTATION:
            try:
                message.ParseFromString(extension.config.value)
            except DecodeError as error:
                raise LimitError(f"{ANNOTATION}: not a {message.DESCRIPTOR.full_name}: {error}") from error
    return tuple(_limit(f"limits[{index}]", m, match) for index, m in enumerate(message.limits))


def _limit(field: str, m: Any, match: Callable[[str, Any], Match]) -> ConnectionLimit:
    def said(name: str, least: int) -> int | None:
        value: int | None = getattr(m, name) if m.HasField(name) else None
        if value is not None and not least <= value <= HIGHEST:
            raise LimitError(f"{field}.{name}: {value} is not from {least} to {HIGHEST}")
        return value

    limits = Limits(said("connections", 0), said("new_per_second", 1), said("bytes_per_second", LEAST[BYTES]))
    clients = tuple(match(f"{field}.clients[{index}]", each) for index, each in enumerate(m.clients))
    for index, client in enumerate(clients):
        for name in OTHERS:
            if getattr(client, name):
                raise LimitError(
                    f"{field}.clients[{index}].{name}: a client is known by its name alone, not by addresses or ports"
                )
    return ConnectionLimit(m.name, limits, clients)


def add_limits(workload: Any, limits: Iterable[ConnectionLimit]) -> None:
    """To a message `istio.workload.Workload`."""
    message = ztun_pb2.ConnectionLimits()
    for limit in limits:
        put = message.limits.add(name=limit.name)
        for field in ("connections", "new_per_second", "bytes_per_second"):
            if (value := getattr(limit.limits, field)) is not None:
                setattr(put, field, value)
        put.clients.extend(map(_match, limit.clients))
    extension = workload.extensions.add(name=ANNOTATION)
    extension.config.type_url, extension.config.value = TYPE_URL, message.SerializeToString()


def _match(match: Match) -> authorization_pb2.Match:
    message = authorization_pb2.Match()
    for field in STRINGS:
        getattr(message, field).extend(map(_string, getattr(match, field)))
    for field in ACCOUNTS:
        getattr(message, field).extend(
            authorization_pb2.ServiceAccountMatch(namespace=a.namespace, serviceAccount=a.service_account)
            for a in getattr(match, field)
        )
    return message


def _string(match: StringMatch) -> authorization_pb2.StringMatch:
    if match.kind is StringMatchKind.PRESENCE:
        message = authorization_pb2.StringMatch()
        message.presence.SetInParent()
        return message
    if match.kind is StringMatchKind.PREFIX:
        return authorization_pb2.StringMatch(prefix=match.value)
    if match.kind is StringMatchKind.SUFFIX:
        return authorization_pb2.StringMatch(suffix=match.value)
    return authorization_pb2.StringMatch(exact=match.value)
