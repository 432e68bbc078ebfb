"""ClusterIPs of Services, as kube-proxy does them by nftables: a random endpoint for each new connection.

It follows the API by asking again, which is enough for a test.
"""

from __future__ import annotations

import http.client
import threading
from typing import Any

from tests.cluster.kubernetes import Kubernetes

PERIOD_S = 0.3


class Services:
    """From `start` to `stop`. `problem`: what went wrong last, for whoever wonders."""

    def __init__(self, cluster: Kubernetes) -> None:
        self._cluster = cluster
        self._applied: dict[str, tuple[int, str]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.problem = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def _run(self) -> None:
        api = self._cluster.api
        while not self._stopped.wait(PERIOD_S):
            try:
                self._apply(rules_of(api.items("/api/v1/services"), api.items("/api/v1/endpoints")))
                self.problem = ""
            except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
                self.problem = f"{type(error).__name__}: {error}"

    def _apply(self, rules: str) -> None:
        for node in self._cluster.nodes.values():
            wanted = node.pid, rules
            if node.pid and self._applied.get(node.name) != wanted:
                node.run("nft", "-f", "-", text=rules)
                self._applied[node.name] = wanted


def rules_of(services: list[dict[str, Any]], endpoints: list[dict[str, Any]]) -> str:
    """What kube-proxy would have nftables do for ClusterIPs: a random endpoint for each new connection."""
    places = {(e["metadata"]["namespace"], e["metadata"]["name"]): e.get("subsets") or [] for e in endpoints}
    rules = []
    for service in services:
        spec, meta = service["spec"], service["metadata"]
        address = spec.get("clusterIP")
        if not address or address == "None":
            continue
        for port in spec.get("ports") or []:
            found = [
                f"{each['ip']} . {listed['port']}"
                for subset in places.get((meta["namespace"], meta["name"]), [])
                for each in subset.get("addresses") or []
                for listed in subset["ports"]
                if listed.get("name") == port.get("name")
            ]
            match = f"ip daddr {address} tcp dport {port['port']}"
            if found:
                numbered = ", ".join(f"{number} : {place}" for number, place in enumerate(found))
                rules.append(
                    f"{match} dnat ip addr . port to numgen random mod {len(found)} map {{ {numbered} }}"
                )
    body = "\n  ".join(rules)
    chains = "\n".join(
        f" chain {hook} {{\n  type nat hook {hook} priority -100;\n  {body}\n }}"
        for hook in ("prerouting", "output")
    )
    return f"table ip services\ndelete table ip services\ntable ip services {{\n{chains}\n}}\n"
