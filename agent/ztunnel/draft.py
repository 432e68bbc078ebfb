"""What a translation has come to so far: options, metadata, and what somebody should be told.

Rows write here (`ztunnel.rows`), `ztunnel.translate` reads. Every option is tried as it is set, so that a refusal names
the variable it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent import config
from agent.ztunnel.values import Refused

READINESS_PORT = 15021
META = "ISTIO_META_"
"""Before the name of what the control plane is told."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the machine counts. `mesh_config`: the text of ./etc/istio/config/mesh, if there is one."""

    exists: Callable[[str], bool]
    cores: int
    mesh_config: str | None = None


@dataclass(slots=True)
class Draft:
    """`environ`: the variables of ztunnel, ProxyConfig's below them."""

    environ: Mapping[str, str]
    around: Surroundings
    options: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """name of a variable -> why it does nothing"""
    admin_port: int | None = None
    stats_port: int | None = None
    concurrency: int | None = None
    has_ipv6: bool = True

    def set(self, option: str, text: str) -> None:
        """Raises Refused for a text that the option does not take."""
        try:
            config.options()[option].kind.parse(text)
        except ValueError as error:
            raise Refused(str(error)) from error
        self.options[option] = text

    def note(self, name: str, why: str) -> None:
        self.notes[name] = why

    def set_servers(self) -> None:
        """Where admin, metrics and readiness listen, when that is not where they do anyway."""
        if self.admin_port is not None:
            self.set("admin_address", f"127.0.0.1:{self.admin_port}")
        if self.stats_port is not None or not self.has_ipv6:
            self.set("metrics_address", f"{self._anywhere}:{self.stats_port or 15020}")
        if not self.has_ipv6:
            self.set("readiness_address", f"{self._anywhere}:{READINESS_PORT}")

    @property
    def _anywhere(self) -> str:
        return "[::]" if self.has_ipv6 else "0.0.0.0"
