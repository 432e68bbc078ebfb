"""Which page is served where. Reading is served on loopback too; what changes something only on the unix socket.

A loopback port is open to every process of the host's network namespace, the unix socket to root alone. Those pages of
ztunnel that change something are at both, and on loopback look who asks (`root_only`).
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.admin.server import Handler, Request, Response, Routes, text
from agent.pages import pprof


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Every page of the agent."""

    status: Handler
    connections: Handler
    tunnels: Handler
    announced: Handler
    certificates: Handler
    policies: Handler
    limits: Handler
    services: Handler
    config_dump: Handler
    logging: Handler
    shutdown: Handler
    pprof: Handler
    audit: Handler
    enroll: Handler
    unenroll: Handler
    cni: Handler
    quit: Handler
    step_aside: Handler
    metrics: Handler
    explain: Handler
    settings: Handler

    def admin_routes(self) -> Routes:
        return with_index(
            {
                ("GET", "/status"): self.status,
                ("GET", "/connections"): self.connections,
                ("GET", "/tunnels"): self.tunnels,
                ("GET", "/announced"): self.announced,
                ("GET", "/certificates"): self.certificates,
                ("GET", "/policies"): self.policies,
                ("GET", "/limits"): self.limits,
                ("GET", "/services"): self.services,
                **self._of_ztunnel(),
            }
        )

    def _of_ztunnel(self) -> Routes:
        """At the places and by the methods of ztunnel's admin server."""
        return {
            ("*", "/config_dump"): self.config_dump,
            ("*", "/logging"): self.logging,
            ("*", "/quitquitquit"): self.shutdown,
            **{("*", path): self.pprof for path in pprof.INSTEAD},
        }

    def private_routes(self) -> Routes:
        return {
            **self.admin_routes(),
            ("GET", "/explain"): self.explain,
            ("GET", "/settings"): self.settings,
            ("GET", "/audit"): self.audit,
            ("POST", "/enroll"): self.enroll,
            ("POST", "/unenroll"): self.unenroll,
            ("POST", "/cni"): self.cni,
            ("POST", "/quit"): self.quit,
            ("POST", "/step-aside"): self.step_aside,
        }

    def metrics_routes(self) -> Routes:
        return {("*", "/metrics"): self.metrics, ("*", "/stats/prometheus"): self.metrics}


def with_index(routes: Routes) -> Routes:
    """The routes, and `/`, which lists them."""

    async def index(_: Request) -> Response:
        return text("".join(f"{path}\n" for path in sorted({path for _, path in routes})))

    return {**routes, ("GET", "/"): index}
