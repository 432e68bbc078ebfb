"""Delta ADS, the client's half, without IO: requests and answers of one stream after another.

Keeps, per type, which version of which name was accepted, so that the next stream resumes where this one
broke off, and decides when the first complete state is there. What is inside a resource is not looked at:
who applies it says which names it refuses. Protocol: docs/WIRE.md#discovery;
recorded conversations: tests/vectors/talks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agent.pb.xds_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status
from agent.pb.xds_pb2 import Resource as ResourceMessage
from agent.wire.xds_versions import Versions

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
TYPES = (ADDRESS, AUTHORIZATION)
"""What a node proxy subscribes to, in the order in which it asks."""

# A server takes requests of 4 MiB (docs/WIRE.md#discovery): above this the names of a resume do not fit.
MAX_RESUME_BYTES = 3 << 20
MAX_REASONS_CHARS = 8192
WILDCARD = "*"
MAX_QUESTIONS, MAX_ASKED = 1024, 20_000
"""Names that wait for an answer, and names that one stream may have been asked about."""


class Resource(NamedTuple):
    """One resource as it came; `version` is empty where the server gives none; `body` is protobuf."""

    name: str
    version: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """One response, to be applied: first `updates`, then `removed`. Then `XdsDelta.settle` it."""

    type_url: str
    nonce: str
    updates: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    malformed: Mapping[str, str] = field(default_factory=dict)
    """Resources refused before anyone looked inside: name -> reason."""
    nameless: frozenset[str] = frozenset()
    """Those of the malformed whose name is ours: they had none."""
    is_known: bool = True
    """False: a type that was never asked for; there is nothing to apply."""
    answers: frozenset[str] = frozenset()
    """Names that were asked about: it says what they are, or that they are nothing."""
    is_first: bool = False
    """The first answer of a stream: what was refused before is sent again, or gone."""


@dataclass(slots=True)
class _Subscription:
    versions: Versions = field(default_factory=Versions)
    refused: dict[str, str] = field(default_factory=dict)
    nameless: set[str] = field(default_factory=set)
    """Those of the refused that had no name: nothing that comes later could take them back."""
    awaits_first: bool = True
    is_resumed: bool = False
    is_complete: bool = False


def make_node(
    *, ip: str, pod: str, namespace: str, node_name: str, metadata: Mapping[str, Any] | None = None
) -> Node:
    """Who asks, in the form in which istiod knows a node proxy (docs/WIRE.md#discovery)."""
    node = Node(id=f"ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local")
    node.metadata.update(
        {
            "NAME": pod,
            "NAMESPACE": namespace,
            "INSTANCE_IPS": ip,
            "NODE_NAME": node_name,
            **(metadata or {}),
        }
    )
    return node


class XdsDelta:
    """The state of the subscription, over all streams of this process. `open` each stream with it."""

    def __init__(
        self,
        node: Node,
        types: Iterable[str] = TYPES,
        max_resume_bytes: int = MAX_RESUME_BYTES,
        *,
        is_on_demand: bool = False,
    ) -> None:
        self._node = node
        self.is_on_demand = is_on_demand
        self._asked: set[str] = set()
        """What the stream was asked about: a name that it has answered it does not answer again."""
        self._pending: dict[str, None] = {}
        self._answered: set[str] = set()
        """What this stream has answered; of what was asked and waits no longer, some only made room for others."""
        self._max_resume_bytes = max_resume_bytes
        self._subscriptions = {type_url: _Subscription() for type_url in types}

    @property
    def is_synced(self) -> bool:
        """The first complete state is there, and stays there: what comes later are changes to it.

        A type is complete once its first answer was applied as far as it could be. What was refused of it is in
        `refused`; whoever applies policies denies where a refused one might have.
        """
        return all(s.is_complete for s in self._subscriptions.values())

    @property
    def refused(self) -> Mapping[str, str]:
        """Resources that the server holds and this node could not use: name -> reason."""
        return {name: why for s in self._subscriptions.values() for name, why in s.refused.items()}

    def accepted(self, type_url: str) -> Mapping[str, str]:
        """What this node holds of a type: name -> version."""
        return dict(self._subscriptions[type_url].versions.items())

    def is_used_up(self, name: str) -> bool:
        """Whether only another stream would answer this."""
        return (name in self._asked and name not in self._pending) or len(self._asked) >= MAX_ASKED

    def has_answered(self, name: str) -> bool:
        """Whether this stream has said what this is, or that it is nothing."""
        return name in self._answered

    def ask(self, name: str) -> DeltaDiscoveryRequest | None:
        """What to send to hear of an address by its name or alias; None: it is on its way. The next stream asks again.

        Never combined with an acknowledgement: a server that takes that for stale ignores the names in it.
        """
        if name in self._pending:
            return None
        while len(self._pending) >= MAX_QUESTIONS:
            del self._pending[next(iter(self._pending))]
        self._pending[name] = None
        self._asked.add(name)
        return DeltaDiscoveryRequest(type_url=ADDRESS, resource_names_subscribe=[name])

    def open(self) -> tuple[DeltaDiscoveryRequest, ...]:
        """The first requests of a new stream. No names to subscribe means all of them (wildcard)."""
        self._asked = set(self._pending)
        self._answered.clear()
        return tuple(self._first_request(t, s) for t, s in self._subscriptions.items())

    def _first_request(self, type_url: str, subscription: _Subscription) -> DeltaDiscoveryRequest:
        versions = dict(subscription.versions.items())
        size_bytes = sum(len(name.encode()) + len(version) + 8 for name, version in versions.items())
        subscription.awaits_first = True
        subscription.is_resumed = size_bytes <= self._max_resume_bytes
        request = DeltaDiscoveryRequest(
            node=self._node,
            type_url=type_url,
            initial_resource_versions=versions if subscription.is_resumed else None,
        )
        if self.is_on_demand and type_url == ADDRESS:
            # All and not all: nothing, where to subscribe to nothing would mean everything.
            request.resource_names_subscribe.extend((WILDCARD, *self._pending))
            request.resource_names_unsubscribe.append(WILDCARD)
            # Nobody sends unasked what was refused before; it is wanted still.
            missing = (*self._pending, *subscription.refused.keys() - subscription.nameless)
            request.initial_resource_versions.update({n: "" for n in missing if n not in versions})
        return request

    def receive(self, response: DeltaDiscoveryResponse) -> Received:
        """Sort a response into what to apply and what is malformed. Changes nothing: `settle` does."""
        subscription = self._subscriptions.get(response.type_url)
        if subscription is None:
            return Received(response.type_url, response.nonce, is_known=False)
        updates: dict[str, Resource] = {}
        malformed: dict[str, str] = {}
        nameless: set[str] = set()
        for index, resource in enumerate(response.resources):
            name = resource.name or f"(unnamed resource {index})"
            if not resource.name:
                nameless.add(name)
            updates.pop(name, None)
            malformed.pop(name, None)
            if reason := _malformed(resource, response.type_url):
                malformed[name] = reason
            else:
                updates[name] = Resource(name, resource.version, resource.resource.value)
        removed = (*response.removed_resources, *self._vanished(subscription, updates, malformed))
        return Received(
            response.type_url,
            response.nonce,
            tuple(updates.values()),
            tuple(dict.fromkeys(removed)),
            malformed,
            nameless=frozenset(nameless),
            answers=self._answers(response) if self._pending else frozenset(),
            is_first=subscription.awaits_first,
        )

    def _answers(self, response: DeltaDiscoveryResponse) -> frozenset[str]:
        said = set(response.removed_resources)
        for resource in response.resources:
            said.add(resource.name)
            said.update(resource.aliases)
        return frozenset(said & self._pending.keys()) if response.type_url == ADDRESS else frozenset()

    @staticmethod
    def _vanished(
        subscription: _Subscription, updates: Mapping[str, object], malformed: Mapping[str, object]
    ) -> list[str]:
        """Names to remove because a first answer, to a request that gave no versions, lacks them.

        Such an answer is the whole state, and the server cannot know what to report as removed.
        """
        if not subscription.awaits_first or subscription.is_resumed:
            return []
        return [n for n in subscription.versions if n not in updates and n not in malformed]

    def settle(self, received: Received, rejections: Mapping[str, str]) -> DeltaDiscoveryRequest:
        """Record what was applied and answer the response: an ACK, or a NACK that names each refusal.

        `rejections`: name -> reason, of resources (or removals) that were not applied; the others were.
        Their versions are not recorded, so the server sends them again on the next stream.
        """
        for name in received.answers:
            self._pending.pop(name, None)
        self._answered |= received.answers
        refused = {**received.malformed, **rejections}
        if received.is_known:
            self._record(self._subscriptions[received.type_url], received, refused)
        request = DeltaDiscoveryRequest(type_url=received.type_url, response_nonce=received.nonce)
        if refused:
            request.error_detail.CopyFrom(Status(message=_reasons(refused)))
        return request

    @staticmethod
    def _record(subscription: _Subscription, received: Received, refused: Mapping[str, str]) -> None:
        if subscription.awaits_first:
            # The first answer of a stream covers every name that was refused before: they were sent
            # again, or are gone, or are back at the version that is held.
            subscription.refused.clear()
            subscription.awaits_first = False
        # One without a name stands until the server says something else; it cannot say it about that one.
        for name in subscription.nameless:
            subscription.refused.pop(name, None)
        subscription.nameless = set(received.nameless)
        for resource in received.updates:
            if resource.name not in refused:
                subscription.versions[resource.name] = resource.version
                subscription.refused.pop(resource.name, None)
        for name in received.removed:
            if name not in refused:
                subscription.versions.discard(name)
                subscription.refused.pop(name, None)
        subscription.refused.update(refused)
        # With what could be used of it: one resource must not keep a node from serving all the others.
        subscription.is_complete = True


def _malformed(resource: ResourceMessage, type_url: str) -> str:
    if not resource.name:
        return "it has no name"
    if not resource.HasField("resource"):
        return "it has no body"
    if resource.resource.type_url not in ("", type_url):
        return f"its body is a {resource.resource.type_url}"
    return ""


def _reasons(refused: Mapping[str, str]) -> str:
    """`name: reason; name: reason`, cut where a server would refuse so long a request."""
    parts: list[str] = []
    room = MAX_REASONS_CHARS
    for name, reason in refused.items():
        part = reason if reason.startswith(f"{name}: ") else f"{name}: {reason}"
        room -= len(part) + 2
        if room < 0:
            parts.append(f"and {len(refused) - len(parts)} more")
            break
        parts.append(part)
    return "; ".join(parts)
