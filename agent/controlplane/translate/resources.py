"""What is served: named, versioned resources, and the snapshot of all of them.

A version is a hash of the serialised resource, so equal content has an equal version on every run and a client that
comes back with versions is sent the differences only (also for policies, where istiod sends everything).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from agent.pb import authorization_pb2 as authz

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource; `policies` are the names of those an address lists. `aliases` as docs/WIRE.md#translation."""

    name: str
    value: bytes
    version: str
    aliases: tuple[str, ...] = ()
    policies: frozenset[str] = frozenset()


def make_resource(
    name: str, message: Message, aliases: tuple[str, ...] = (), policies: frozenset[str] = frozenset()
) -> Resource:
    value = message.SerializeToString(deterministic=True)
    return Resource(name, value, hashlib.sha256(value).hexdigest()[:16], aliases, policies)


@dataclass(frozen=True, slots=True)
class Policy:
    """An Authorization with its decoded message, because the order of pushes depends on what it says."""

    resource: Resource
    message: authz.Authorization


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a wildcard client should hold, by name."""

    addresses: Mapping[str, Resource] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
