"""One client's delta discovery stream, without IO: requests in, responses out (docs/WIRE.md#discovery).

Level-triggered: `step` compares what the client holds with what it should hold (`interest`) and says what may be sent
now. One response of a type is under way at a time; the next waits for its ack, and changes meanwhile melt into it.
Policies that tighten are acked before any address goes out; removals and policies that open follow when addresses are
acked. Policies are always sent whole: only addresses can be asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agent.controlplane.serve.interest import WILDCARD, Interest
from agent.controlplane.serve.push_order import Archive, PolicyPlan, plan
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE, Resource, Snapshot
from agent.pb import xds_pb2 as xds

NO_PLAN = PolicyPlan((), (), ())
LARGE_BYTES = 1 << 20
"""Of resources: a response with more than that takes several times as much memory until its client has read it."""


@dataclass(frozen=True, slots=True)
class Nack:
    """A response that the client refused, wholly or in part; `reason` is the client's text."""

    type_url: str
    reason: str
    names: tuple[str, ...]


@dataclass(slots=True)
class _Subscription:
    """What the client holds of one type, and what is under way to it."""

    type_url: str
    interest: Interest
    held: Mapping[str, str] = field(default_factory=dict)
    """name -> version, as sent or as the client said when it came back. May be what many others hold as well."""
    nonce: str = ""
    """Of the response under way; empty when everything sent was answered."""
    sending: tuple[str, ...] = ()
    is_answered: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    """name -> version that the client would not take: not sent again unchanged."""
    brought: frozenset[str] = frozenset()
    """What the client held when it came."""
    settled: Mapping[str, Resource] | None = None
    """The addresses of which the client holds everything that it may."""

    @property
    def is_idle(self) -> bool:
        return not self.nonce


class Session:
    """A stream's state. `node`: whose workloads come unasked to a client that asks by name.

    `is_awaited`: whether the agent of a node may still tell which of its pods are captured.
    """

    def __init__(self, node: str = "", is_awaited: Callable[[str], bool] = lambda node: False) -> None:
        self._node, self._is_awaited = node, is_awaited
        self._types: dict[str, _Subscription] = {}
        self._sent = 0
        self._addresses_may_go_alone = False
        self._withholds = False
        self.waits_for_turn = False
        """The last step had a large response to make and no turn for that."""

    def receive(self, request: xds.DeltaDiscoveryRequest) -> Nack | None:
        """Take a request in."""
        known = self._types.get(request.type_url)
        if known is None:
            self._types[request.type_url] = self._first(request)
            return None
        if request.response_nonce and request.response_nonce != known.nonce:
            return None  # stale, with all it says: the client will answer the newer response
        known.interest.change(request.resource_names_subscribe, request.resource_names_unsubscribe)
        return self._answered(known, request) if request.response_nonce else None

    def _first(self, request: xds.DeltaDiscoveryRequest) -> _Subscription:
        gone = request.resource_names_unsubscribe if request.type_url == ADDRESS_TYPE else ()
        named = list(request.resource_names_subscribe)
        wanted = named if request.type_url == ADDRESS_TYPE else [WILDCARD, *named]
        interest = Interest(self._node, wanted, gone)
        held = interest.hold(request.initial_resource_versions)
        return _Subscription(request.type_url, interest, held, brought=frozenset(held))

    def _answered(self, known: _Subscription, request: xds.DeltaDiscoveryRequest) -> Nack | None:
        sent, known.nonce, known.sending = known.sending, "", ()
        if not request.HasField("error_detail"):
            for name in sent:
                known.refused.pop(name, None)
            return None
        reason = request.error_detail.message
        # A client applies what it can and names the rest; if it names nothing we sent, all of it is in doubt.
        # Form of the text: `name: reason; name: reason` (docs/WIRE.md#discovery).
        names = tuple(name for name in sent if f"; {name}: " in f"; {reason}") or sent
        known.refused.update({name: known.held[name] for name in names if name in known.held})
        return Nack(known.type_url, reason, names)

    def release_addresses(self) -> None:
        """The client had its time to subscribe to policies: addresses need not wait for them any longer."""
        self._addresses_may_go_alone = True

    def step(
        self, snapshot: Snapshot, archive: Archive, *, has_turn: bool = True
    ) -> list[xds.DeltaDiscoveryResponse]:
        """What to send now, in this order. Call it after every request and every new snapshot.

        `has_turn`: addresses may be a large response; else they wait, and what has to come after them.
        """
        self.waits_for_turn = False
        policies, addresses = self._types.get(AUTHORIZATION_TYPE), self._types.get(ADDRESS_TYPE)
        responses = [self._push(s, (), ()) for s in self._unknown_types() if not s.is_answered]
        todo = plan(policies.held, policies.refused, snapshot.policies, archive) if policies else NO_PLAN
        if policies and policies.is_idle and (todo.early or not policies.is_answered):
            responses.append(self._push(policies, todo.early, ()))
        tightened = policies.is_idle if policies else self._addresses_may_go_alone
        if addresses and addresses.is_idle and tightened:
            responses.extend(self._addresses(addresses, policies, snapshot, has_turn))
        loosened = policies and policies.is_idle and (addresses is None or addresses.is_idle)
        asked = policies.interest.asked if policies else []
        holds_back = self._withholds or self.waits_for_turn
        if policies and loosened and not holds_back and (todo.late or todo.removed or asked):
            found = [snapshot.policies[name].resource for name in asked if name in snapshot.policies]
            unknown = [name for name in asked if name not in snapshot.policies]
            asked.clear()
            responses.append(self._push(policies, [*todo.late, *found], (*todo.removed, *unknown)))
        return responses

    def _addresses(
        self, known: _Subscription, policies: _Subscription | None, snapshot: Snapshot, has_turn: bool
    ) -> list[xds.DeltaDiscoveryResponse]:
        if known.brought and not self._is_awaited(""):
            known.brought = frozenset()  # nobody is waited for any more
        asked = known.interest.asked
        is_following = known.interest.is_wildcard and known.settled is not None and not self._withholds
        if is_following and known.settled is snapshot.addresses and known.is_answered and not asked:
            return []
        current = known.interest.wanted(snapshot)
        refused = policies.refused.keys() if policies else frozenset()
        is_next = is_following and known.settled is snapshot.base
        names = sorted(snapshot.touched) if is_next else list(current)
        found_due = ((name, current[name]) for name in names if name in current)
        due = {name: r for name, r in found_due if known.held.get(name) != r.version}
        suspects = snapshot.touched if is_next else known.held.keys()
        removed = [name for name in suspects if name in known.held and name not in current]
        # Security: an address that lists a policy the client could not take stays as the client has it, and
        # so do the policies that it lists there: they are not removed meanwhile.
        # Security: nor is a workload that it knows said to take plaintext before its node's agent was heard.
        changed = {
            name: r
            for name, r in due.items()
            if not r.policies & refused
            and not (r.is_plain and name in known.brought and self._is_awaited(r.node))
        }
        withholds = len(changed) < len(due)
        for name in asked:
            found = known.interest.behind(name, snapshot)
            changed |= {r.name: r for r in found if not r.policies & refused}
            if not found and name not in removed:
                removed.append(name)
        if not has_turn and sum(len(each.value) for each in changed.values()) > LARGE_BYTES:
            self.waits_for_turn = True
            return []
        self._withholds = withholds
        known.settled = snapshot.addresses if known.interest.is_wildcard else None
        if not changed and not removed and not asked and known.is_answered:
            return []
        asked.clear()
        # These very ones: what many clients hold is one piece of memory.
        held = snapshot.versions if known.interest.is_wildcard and not withholds else None
        return [self._push(known, changed.values(), removed, held)]

    def _unknown_types(self) -> Iterable[_Subscription]:
        """Types that do not exist here: answered once, with nothing, because a client waits for that."""
        return [s for s in self._types.values() if s.type_url not in (ADDRESS_TYPE, AUTHORIZATION_TYPE)]

    def _push(
        self,
        known: _Subscription,
        resources: Iterable[Resource],
        removed: Iterable[str],
        held: Mapping[str, str] | None = None,
    ) -> xds.DeltaDiscoveryResponse:
        """`held`: what the client has with it, where that is known."""
        self._sent += 1
        response = xds.DeltaDiscoveryResponse(
            type_url=known.type_url, nonce=str(self._sent), removed_resources=list(removed)
        )
        for resource in resources:
            entry = response.resources.add(name=resource.name, version=resource.version)
            if not known.interest.is_wildcard:
                entry.aliases.extend(resource.aliases)
            entry.resource.type_url = known.type_url
            entry.resource.value = resource.value
        for name in response.removed_resources:
            known.refused.pop(name, None)
        sent = {entry.name: entry.version for entry in response.resources}
        if held is None:
            gone = set(response.removed_resources)
            held = {n: v for n, v in {**known.held, **sent}.items() if n not in gone}
        known.held = held
        known.nonce, known.is_answered = response.nonce, True
        known.sending = tuple(sent)
        return response
