"""How a pod's connections are treated: what is asked for it, what the node does with all others. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from redirect.layout import Flag


class Honesty(StrEnum):
    """Whose connections are answered only when their destination has answered: the values of --honest-connect."""

    OFF = "off"
    PODS = "pods"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for one pod; None: as the node does with others.

    `is_honest`: its connections are answered only when their destination has answered. `is_bypassed`: connections to
    it are not captured, but for those to the tunnel port. `is_dns_captured`: its DNS queries are.
    """

    is_honest: bool | None = None
    is_bypassed: bool = False
    is_dns_captured: bool | None = None


NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True)
class Ways:
    """What a node does with pods for which nothing else is asked."""

    honesty: Honesty = Honesty.OFF
    is_dns_captured: bool = False

    def treatment(self, asked: Asked) -> Flag:
        """What the kernel side is told of a pod."""
        is_dns = self.is_dns_captured if asked.is_dns_captured is None else asked.is_dns_captured
        flags = Flag.HONEST if self._is_honest(asked) else Flag(0)
        flags |= Flag.BYPASS if asked.is_bypassed else Flag(0)
        return flags | (Flag.DNS if is_dns else Flag(0))

    def _is_honest(self, asked: Asked) -> bool:
        if self.honesty is Honesty.OFF:
            return False
        return self.honesty is Honesty.ALL if asked.is_honest is None else asked.is_honest


PLAIN_WAYS = Ways()
