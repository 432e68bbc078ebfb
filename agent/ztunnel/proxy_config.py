"""ProxyConfig: what a mesh config's `defaultConfig` and the variable PROXY_CONFIG say, below single variables. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from agent.ztunnel.draft import META
from agent.ztunnel.values import Refused


@dataclass(slots=True)
class ProxyConfig:
    """`environ`: what would be said by a variable, by its name. `ignored`: keys that do nothing here."""

    environ: dict[str, str] = field(default_factory=dict)
    admin_port: int | None = None
    stats_port: int | None = None
    concurrency: int | None = None
    ignored: set[str] = field(default_factory=set)

    def read(self, text: str, key: str = "") -> None:
        """Take in what a text says, YAML or JSON, over what was read before. Raises Refused."""
        found = _mapping(text)
        if key:
            found = found.get(key) or {}
        if not isinstance(found, Mapping):
            raise Refused(f"{key} is no mapping")
        for name, value in found.items():
            self._take(str(name), value)

    def _take(self, name: str, value: Any) -> None:
        if name == "discoveryAddress":
            self.environ["XDS_ADDRESS"] = str(value)
        elif name == "proxyAdminPort":
            self.admin_port = _number(name, value)
        elif name == "statsPort":
            self.stats_port = _number(name, value)
        elif name == "concurrency":
            self.concurrency = None if value is None else _number(name, value)
        elif name == "proxyMetadata":
            if not isinstance(value, Mapping):
                raise Refused("proxyMetadata is no mapping")
            self.environ |= {f"{META}{str(k).removeprefix(META)}": str(v) for k, v in value.items()}
        else:
            self.ignored.add(name)


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refused(f"it takes YAML: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, Mapping):
        raise Refused("it takes a mapping")
    return found or {}


def _number(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused(f"{name}: it takes a whole number")
    return value
