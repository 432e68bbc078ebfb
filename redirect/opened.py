"""Captured pods that are open for a while, as people are told of them. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from redirect.layout import IP, IfaceEntry
from redirect.opening import OF_NODE, Opening


@dataclass(frozen=True, slots=True)
class Target:
    """A captured interface. `pod`: whose it is, empty where nobody noted it; `ifname` is empty when it is gone."""

    ifindex: int
    ifname: str
    pod: str
    entry: IfaceEntry

    @property
    def addresses(self) -> tuple[IP, ...]:
        return self.entry.addresses

    @property
    def name(self) -> str:
        return self.pod or self.ifname or f"interface {self.ifindex}"


@dataclass(frozen=True, slots=True)
class Opened:
    """What is open now: `target` is None where it is every pod of the node. `left_s` until it ends by itself."""

    target: Target | None
    opening: Opening
    left_s: float

    @property
    def scope(self) -> str:
        """`node` or `pod`"""
        return "node" if self.target is None else "pod"

    @property
    def name(self) -> str:
        return "this node" if self.target is None else self.target.name

    @property
    def ifindex(self) -> int:
        return OF_NODE if self.target is None else self.target.ifindex

    @property
    def ifname(self) -> str:
        return "" if self.target is None else self.target.ifname


def words(opened: Opened, until_s: float) -> str:
    """Whose connections pass in clear, until when, why, by whom."""
    whose = f"pod {opened.name} speaks" if opened.scope == "pod" else "all pods of this node speak"
    until = datetime.fromtimestamp(until_s, UTC)
    return (
        f"{whose} in clear, and policies refuse nobody there, until {until:%Y-%m-%dT%H:%M:%SZ}: "
        f"{opened.opening.reason} (by {opened.opening.who})"
    )


def which_words(opened: Opened) -> str:
    """Whose opening it is, as `ztun bypass` takes it."""
    return "--node" if opened.target is None else opened.name


def row(opened: Opened) -> dict[str, object]:
    return {
        "scope": opened.scope,
        "pod": opened.name if opened.scope == "pod" else "",
        "interface": opened.ifname,
        "left_s": round(opened.left_s, 1),
        "who": opened.opening.who,
        "reason": opened.opening.reason,
    }
