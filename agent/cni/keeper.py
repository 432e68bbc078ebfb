"""Keeps the CNI plugin on the node while the agent runs. It stays there when the agent stops: until the next one is
there, pods that are made wait instead of starting outside of the mesh.
"""

from __future__ import annotations

import asyncio

from agent.cni.install import Installation
from agent.config import Config

LOOK_S = 0.5
"""How often it is looked whether another CNI has rewritten its file: a look is a listing of two directories."""


def installation_of(settings: Config) -> Installation:
    """As the options say."""
    head, _, _ = settings.pod_name.rpartition("-")
    plugin = {
        "socket": str(settings.directory / "agent.sock"),
        "excludeNamespaces": list(settings.exclude_namespaces),
        "agentPod": {"namespace": settings.pod_namespace, "prefix": head or settings.pod_name},
    }
    return Installation(settings.cni_bin_dir, settings.cni_conf_dir, plugin, settings.cni_own_file)


class PluginKeeper:
    """Of one agent. `run` until cancelled."""

    def __init__(self, settings: Config) -> None:
        self._installation = installation_of(settings)

    @property
    def problem(self) -> str:
        """Why the plugin is not in place, with the remedy; empty while it is."""
        return self._installation.problem

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self._installation.keep)
            await asyncio.sleep(LOOK_S)
