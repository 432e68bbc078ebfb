"""What is served: named, versioned resources, and the snapshot of all of them.

A version is a hash of the serialised resource, so equal content has an equal version on every run and a client that
comes back with versions is sent the differences only (also for policies, where istiod sends everything).
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf.message import Message

from agent.pb import authorization_pb2 as authz

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. `aliases` as docs/WIRE.md#translation.

    Of a workload: the `policies` it lists, the `services` it is part of, its `node`, and whether it takes plaintext.
    """

    name: str
    value: bytes
    version: str
    aliases: tuple[str, ...] = ()
    policies: frozenset[str] = frozenset()
    services: tuple[str, ...] = ()
    node: str = ""
    is_plain: bool = False


def make_resource(
    name: str,
    message: Message,
    aliases: tuple[str, ...] = (),
    policies: frozenset[str] = frozenset(),
    services: tuple[str, ...] = (),
    node: str = "",
    is_plain: bool = False,
) -> Resource:
    value = message.SerializeToString(deterministic=True)
    # The same text for all who hold it: a client that comes back brings thousands of them.
    version = sys.intern(hashlib.sha256(value).hexdigest()[:16])
    return Resource(sys.intern(name), value, version, aliases, policies, services, node, is_plain)


@dataclass(frozen=True, slots=True)
class Policy:
    """An Authorization with its decoded message, because the order of pushes depends on what it says."""

    resource: Resource
    message: authz.Authorization


@dataclass(frozen=True)
class Snapshot:
    """Everything a wildcard client should hold, by name."""

    addresses: Mapping[str, Resource] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    base: Mapping[str, Resource] | None = field(default=None, compare=False, repr=False)
    """Addresses of a snapshot from which these differ in those of the names in `touched` alone."""
    touched: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def with_changes(
        self, made: Mapping[str, Resource], gone: Iterable[str], policies: Mapping[str, Policy]
    ) -> Snapshot:
        """With addresses made and gone. Where none is another, they are the very same mapping."""
        news = {name: r for name, r in made.items() if self.addresses.get(name) != r}
        absent = [name for name in gone if name in self.addresses]
        if not news and not absent:
            return Snapshot(self.addresses, policies, self.base, self.touched)
        addresses = dict(self.addresses)
        for name in absent:
            del addresses[name]
        addresses.update(news)
        if not news.keys() <= self.addresses.keys():
            addresses = dict(sorted(addresses.items()))
        return Snapshot(addresses, policies, self.addresses, frozenset((*news, *absent)))

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """Of the addresses, by name."""
        return {name: resource.version for name, resource in self.addresses.items()}

    @cached_property
    def index(self) -> Index:
        """Made when the first client asks by name."""
        return Index(self.addresses)


class Index:
    """Addresses by what else they are known by. Pods of the host network share an alias."""

    def __init__(self, addresses: Mapping[str, Resource]) -> None:
        self._addresses = addresses
        aliases: defaultdict[str, list[Resource]] = defaultdict(list)
        services: defaultdict[str, list[Resource]] = defaultdict(list)
        nodes: defaultdict[str, list[Resource]] = defaultdict(list)
        for resource in addresses.values():
            for alias in resource.aliases:
                aliases[alias].append(resource)
            for service in resource.services:
                services[service].append(resource)
            if resource.node:
                nodes[resource.node].append(resource)
        self._aliases: Mapping[str, Sequence[Resource]] = aliases
        self.of_service: Mapping[str, Sequence[Resource]] = services
        self.of_node: Mapping[str, Sequence[Resource]] = nodes

    def named(self, name: str) -> list[Resource]:
        """The resource of that name, or all of that alias."""
        found = self._addresses.get(name)
        return [found] if found else list(self._aliases.get(name, ()))
