"""The names of an instance's two private namespaces and of the devices that lead there: all a worker knows of them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from redirect import netns

IFNAME_LIMIT = 15


@dataclass(frozen=True, slots=True)
class Side:
    """One private namespace and the device that leads there, of the same name at both ends."""

    namespace: str
    ifname: str

    @property
    def netns(self) -> Path:
        return netns.path_of(self.namespace)


def sides_of(instance: str) -> tuple[Side, Side]:
    """The pod side and the net side of an instance. Raises ValueError for a name that cannot be used."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", instance):
        raise ValueError(f"instance {instance!r}: want lower-case letters, digits and dashes, 31 at most")
    return (
        Side(f"{instance}-pod", _ifname(instance, "mo")),
        Side(f"{instance}-net", _ifname(instance, "mi")),
    )


def _ifname(instance: str, suffix: str) -> str:
    name = f"{instance}-{suffix}"
    if len(name) <= IFNAME_LIMIT:
        return name
    digest = hashlib.sha256(instance.encode()).hexdigest()[:6]
    return f"{instance[: IFNAME_LIMIT - len(digest) - len(suffix) - 2]}-{digest}-{suffix}"
