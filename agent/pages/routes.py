"""Which page is served where. Reading is served on loopback too; what changes something only on the unix socket.

A loopback port is open to every process of the host's network namespace, the unix socket to root alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Handler, Request, Response, Routes, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Every page of the agent."""

    status: Handler
    connections: Handler
    tunnels: Handler
    announced: Handler
    certificates: Handler
    policies: Handler
    services: Handler
    enroll: Handler
    unenroll: Handler
    cni: Handler
    quit: Handler
    metrics: Handler
    ready: Handler

    def admin_routes(self) -> Routes:
        return with_index(
            {
                ("GET", "/status"): self.status,
                ("GET", "/connections"): self.connections,
                ("GET", "/tunnels"): self.tunnels,
                ("GET", "/announced"): self.announced,
                ("GET", "/certificates"): self.certificates,
                ("GET", "/policies"): self.policies,
                ("GET", "/services"): self.services,
            }
        )

    def private_routes(self) -> Routes:
        return {
            **self.admin_routes(),
            ("POST", "/enroll"): self.enroll,
            ("POST", "/unenroll"): self.unenroll,
            ("POST", "/cni"): self.cni,
            ("POST", "/quit"): self.quit,
        }

    def metrics_routes(self) -> Routes:
        return {("*", "/metrics"): self.metrics, ("*", "/stats/prometheus"): self.metrics}

    def readiness_routes(self) -> Routes:
        return {("GET", "/healthz/ready"): self.ready}


def with_index(routes: Routes) -> Routes:
    """The routes, and `/`, which lists them."""

    async def index(_: Request) -> Response:
        return text("".join(f"{path}\n" for _, path in sorted(routes)))

    return {**routes, ("GET", "/"): index}
