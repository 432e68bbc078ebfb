"""`/status`: what `ztun status` prints, with every pod and every reason."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from agent import FORM
from agent.admin.server import Request, Response, as_json
from agent.config import Config
from agent.enroll.captures import Captures
from agent.enroll.kernel import KernelSide
from agent.enroll.prefilter import Prefilter
from agent.pages.health import AgentHealth
from agent.pages.times import utc
from agent.pages.zds import zds_row
from agent.rpc.xds_client import XdsClient
from agent.state.store import Store
from agent.supervisor.crew import Crew
from agent.telemetry import families
from agent.telemetry.metrics import Figures
from agent.telemetry.totals import Totals
from agent.watch.host_traffic import HostTraffic
from agent.watch.kept import KeptConnections
from agent.watch.mesh_gaps import MeshGaps
from redirect.layout import Flag

if TYPE_CHECKING:
    from agent.zds.source import ZdsSource


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusPage:
    settings: Config
    health: AgentHealth
    captures: Captures
    kernel: KernelSide
    store: Store
    crew: Crew
    xds: XdsClient
    gaps: MeshGaps
    kept: KeptConnections
    totals: Totals
    figures: Figures
    prefilter: Prefilter
    host_traffic: HostTraffic
    zds: ZdsSource | None = None

    async def __call__(self, _: Request) -> Response:
        health = self.health.now()
        return as_json(
            {
                "state": health.state,
                "line": health.line,
                "reasons": health.reasons,
                "limits": self.kernel.limits,
                "proof": self._proof(),
                "node": self.settings.node,
                "form": {"kind": FORM.word, "modules": len(FORM.modules)},
                "honest_connect": self.captures.ways.honesty.value,
                "dns_capture": self.captures.ways.is_dns_captured,
                "dns_fail": self.settings.dns_fail,
                "enforce_waypoint": self.settings.enforce_waypoint,
                "local_path": self.settings.local_path,
                "host_traffic": {"mode": self.host_traffic.mode, "passes": self.host_traffic.passes},
                "on_demand": self.settings.on_demand,
                "prefilter": self.prefilter.summary(),
                "socks5": self.settings.socks5,
                "pods": self._pods(),
                "waiting": self._waiting(),
                "history": self._history(),
                "services": self._services(),
                "workers": [{"slot": link.slot, "pid": link.pid} for link in self.crew.links],
                "retiring_workers": [{"slot": link.slot, "pid": link.pid} for link in self.crew.retiring],
                "hand_overs": self.crew.hand_overs,
                "worker_restarts": self.crew.restarts,
                "refused_resources": dict(self.xds.status.refused),
                "log_lines_lost": self._lost_lines(),
                "zds": zds_row(self.zds),
                "unguarded_packets": asdict(self.health.counters.passed),
                "bypasses": self.health.counters.openings.rows(),
            }
        )

    def _pods(self) -> list[dict[str, object]]:
        troubles = {trouble.pod: str(trouble) for trouble in self.captures.troubles}
        gaps = self.gaps.now()
        wishes = self.captures.wishes
        return [
            {
                "pod": str(pod.key),
                "wanted_by": wishes[pod.key].wanted_by.value if pod.key in wishes else "",
                "identity": str(pod.identity),
                "interface": pod.ifname,
                "addresses": list(map(str, pod.addresses)),
                "closed_addresses": list(map(str, pod.closed)),
                "honest_connect": Flag.HONEST in pod.place.treatment,
                "bypass_inbound": Flag.BYPASS in pod.place.treatment,
                "dns_capture": pod.place.is_dns_captured,
                "kept_connections": self._kept(pod.place.ifindex),
                "is_draining": self.captures.is_draining(pod.key),
                "trouble": troubles.get(pod.key, ""),
                "not_in_force": [
                    {
                        "resource": gap.resource,
                        "kind": gap.kind.value,
                        "effect": gap.effect,
                        "since": utc(since),
                    }
                    for gap, since in gaps.items()
                    if gap.pod == str(pod.key)
                ],
            }
            for pod in sorted(self.captures.pods.values(), key=lambda pod: str(pod.key))
        ]

    def _kept(self, ifindex: int) -> dict[str, object]:
        """Open connections from before the pod was enrolled. `ends_at`: at the latest; empty: when they close."""
        kept = self.kept.by_interface.get(ifindex)
        if kept is None:
            return {"open": 0, "ends_at": ""}
        left_s = (kept.until_ns - time.monotonic_ns()) / 1e9
        return {"open": kept.count, "ends_at": utc(time.time() + left_s) if kept.until_ns else ""}

    def _waiting(self) -> list[dict[str, object]]:
        """What wished pods and captured interfaces wait for. `is_expected`: nothing is wrong."""
        wishes = self.captures.wishes
        return [
            {
                "pod": str(trouble.pod or ""),
                "missing": trouble.missing.value,
                "reason": trouble.text,
                "remedy": trouble.remedy,
                "since": utc(trouble.since_s),
                "interface": trouble.ifname,
                "where": str(wishes[trouble.pod].where) if trouble.pod and trouble.pod in wishes else "",
                "is_expected": trouble.is_expected,
            }
            for trouble in self.captures.waiting
        ]

    def _history(self) -> list[dict[str, object]]:
        return [
            {"at": utc(event.at_s), "pod": str(event.pod), "text": event.text}
            for event in self.captures.history.events
        ]

    def _proof(self) -> dict[str, object]:
        """How old the last observation is, and every broken link of it, the chain's order within each pod."""
        age_s = self.health.prover.age_s
        return {
            "age_s": age_s if age_s is None else round(age_s, 3),
            "findings": [
                {
                    "link": each.finding.link.word,
                    "pod": each.finding.pod,
                    "reason": each.finding.reason,
                    "remedy": each.finding.remedy,
                    "is_remark": each.finding.is_remark,
                    "since": utc(each.since),
                }
                for each in self.health.standing()
            ],
        }

    def _lost_lines(self) -> dict[str, int]:
        """Lines that the readers of the logs were too slow for, by log, of this process and its workers."""
        lost = self.totals.sums(families.LOG_LINES_LOST, self.figures)
        return {name: int(count) for (name,), count in lost.items() if count}

    def _services(self) -> dict[str, list[str]]:
        services = self.store.current.services
        vips = {str(key): service.listed_vips for key, service in services.items()}
        return dict(sorted(vips.items()))
