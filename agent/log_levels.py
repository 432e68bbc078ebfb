"""Which lines of the logs are written: one level for all, others for single targets, in ztunnel's words.

A spec is a comma list of `LEVEL` or `TARGET=LEVEL` (docs/WIRE.md#logs); a target is a module as the log shows it
(`rpc::xds_client`, or `rpc` with all in it), or `access`, the access log. Workers are told by `channel.LogLevels`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NUMBERS = {"off": 100, "error": 40, "warn": 30, "info": 20, "debug": 10, "trace": 5}
"""By ztunnel's word, as `logging` counts."""
SYNONYMS = {"warning": "warn", "critical": "error"}
"""Words of our own option and of istioctl."""
ACCESS = "access"
_UPSTREAM = {"xds": "rpc::xds_client", "inpod": "zds", "rbac": "policy"}
"""Modules of ztunnel that have another name here."""
_TARGET = re.compile(r"[a-z_][a-z0-9_]*(::[a-z_][a-z0-9_]*)*")
_ROOT = Path(__file__).parents[1]
OURS = ("agent", "redirect", "__main__")
OTHERS = ("asyncio", "grpc", "h2", "hpack", "watchfiles")
"""Other people's that are taken as targets: they say warnings alone unless they are named."""


class NoLevel(ValueError):
    """The text is no level or target; the message says what is taken."""


@dataclass(frozen=True, slots=True)
class Levels:
    """`overall`, but for those `targets` that have a level of their own: words of NUMBERS, by target."""

    overall: str = "info"
    targets: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ",".join([self.overall, *(f"{target}={level}" for target, level in self.targets)])

    def with_spec(self, spec: str) -> Levels:
        """The same with what the spec says on top. Raises NoLevel."""
        overall, targets = self.overall, dict(self.targets)
        for clause in spec.split(","):
            target, level = _clause(clause.strip())
            if target:
                targets[target] = level
            else:
                overall = level
        return Levels(overall, tuple(sorted(targets.items())))

    @property
    def access(self) -> int:
        """The least level of lines of the access log."""
        return NUMBERS[dict(self.targets).get(ACCESS, self.overall)]


def initial(option: str) -> Levels:
    """What `--log-level` says. The access log is written all the same, unless it is named. Raises NoLevel."""
    levels = Levels().with_spec(option)
    if levels.overall == "info" or ACCESS in dict(levels.targets):
        return levels
    return levels.with_spec(f"{ACCESS}=info")


def _clause(text: str) -> tuple[str, str]:
    """Target (empty: everything) and level."""
    target, sign, word = text.rpartition("=")
    if not sign and ":" in text:
        target, sign, word = text.rpartition(":")
    level = SYNONYMS.get(word.lower(), word.lower())
    if level not in NUMBERS:
        raise NoLevel(f"{word!r} is no level: there are {', '.join(NUMBERS)}")
    return (_target(target) if sign else ""), level


def _target(text: str) -> str:
    """The target as the log shows it. A name that nothing here has would be a level without any effect."""
    found = text.removeprefix("ztunnel::")
    if found == "ztunnel":
        return "agent"
    found = _UPSTREAM.get(found, found)
    if found != ACCESS and not (_TARGET.fullmatch(found) and _is_module(logger_of(found))):
        raise NoLevel(
            f"{text!r} is no target: it takes access, or a module as the log shows it between process and message"
            " (rpc::xds_client; proxy is all of proxy::*)"
        )
    return found


def logger_of(target: str) -> str:
    """The name of the logger whose lines have this target."""
    name = target.replace("::", ".")
    return name if name.split(".")[0] in (*OURS, *OTHERS) else f"agent.{name}"


def _is_module(name: str) -> bool:
    if name in OTHERS:
        return True
    path = _ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
