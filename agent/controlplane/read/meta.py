"""What every object has: its name, its labels, and the place it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.controlplane.read.fields import Place

Key = tuple[str, str, str]
"""Kind, namespace (empty for objects of the cluster) and name."""
IPRange = tuple[IPv4Address | IPv6Address, int]
"""An address and a prefix length; host bits stay, as istiod sends them (docs/WIRE.md#translation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Name and labels of an object. `namespace` is empty for objects of the cluster, `created` if nobody says when."""

    place: Place = field(compare=False)
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def key(self) -> Key:
        return (self.kind, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"
