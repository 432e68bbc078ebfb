"""The last leg of every inbound connection: register, judge, dial the application from the client's address.

Shared by tunnels, plaintext and the hand-over inside the node, so that none of them can skip a step. The
order matters: registered first, then judged, so a policy that arrives in between still finds the connection;
the dial starts only after the verdict, and a verdict that changes while dialling ends it.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.address import IP, SocketAddress
from agent.model.connection import Connection
from agent.model.outcome import Outcome, Refusal
from agent.model.workload import Workload
from agent.net.dial import Dial, Dialler, DialOwner
from agent.net.loop import Loop
from agent.policy.evaluate import evaluate
from agent.proxy.limiter import Limiter
from agent.proxy.registry import Live, Registry
from agent.state.passage import bypassed
from agent.state.store import Store


@dataclass(frozen=True, slots=True)
class ProxyAddresses:
    """The addresses on lo of both private namespaces: the source where a pod reaches itself."""

    v4: IP
    v6: IP

    def like(self, ip: IP) -> IP:
        return self.v4 if ip.version == 4 else self.v6


class Delivery:
    """Makes deliveries; one per worker. `dialler` is of the pod side: it can only reach pods."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        registry: Registry,
        dialler: Dialler,
        proxy: ProxyAddresses,
        limiter: Limiter,
    ) -> None:
        self.loop = loop
        self.store = store
        self.registry = registry
        self.dialler = dialler
        self.limiter = limiter
        self._proxy = proxy

    def admit(self, live: Live, workload: Workload) -> None:
        """Register the connection, judge it, and count it where its pod has limits.

        Raises Refusal; the caller removes it from the registry.
        """
        if self.registry.is_full:
            raise Refusal(Outcome.OVERLOADED)
        live.destination_uid = workload.uid
        self.registry.add(live)
        assert live.connection is not None
        decision = evaluate(live.connection, workload, self.store.current)
        if not decision.allowed:
            raise Refusal(Outcome.POLICY_DENIED, decision.reason)
        if self.registry.enforces_waypoint:
            reason = bypassed(self.store.current, live.connection, workload)
            if reason:
                raise Refusal(Outcome.WAYPOINT_BYPASSED, reason)
        if workload.limits:
            self.limiter.admit(live, workload)

    def dial(self, connection: Connection, owner: DialOwner, *, keep_port: bool) -> Dial:
        """Connect to the application from the client's address; `keep_port` tries its own port first."""
        source = connection.source
        # A pod drops packets that come from itself: whoever calls its own Service is met by the proxy address.
        ip = self._proxy.like(source.ip) if source.ip == connection.destination.ip else source.ip
        port = source.port if keep_port else self.dialler.random_port()
        return self.dialler.dial(connection.destination, SocketAddress(ip, port), owner)
