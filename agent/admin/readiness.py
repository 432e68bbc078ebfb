"""Is the agent well? A pure judgement over facts that others report, and the one line that says it.

READY: everything enrolled is served, by current state and valid certificates. DEGRADED: something a person
should look at, each with its reason; traffic goes on as far as it safely can. (DEAD is what the command line
says when nobody answers.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

CERTIFICATE_SHORT_S = 600.0


@dataclass(frozen=True, slots=True)
class CertificateFact:
    identity: str
    left_s: float | None
    """Seconds until it expires; None: there is none."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known now. Texts are reasons for people."""

    generation: str
    pods_captured: int
    pods_wanted: int
    xds: str
    """`synced`, `connecting`, `waiting` (never had a complete state) or `stale` (lost, serving the last state)."""
    xds_error: str = ""
    certificates: tuple[CertificateFact, ...] = ()
    drops_per_s: float = 0.0
    workers_alive: int = 0
    workers_wanted: int = 0
    problems: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Health:
    state: str
    line: str
    reasons: tuple[str, ...]


def judge(facts: Facts) -> Health:
    """The state of the agent, with every reason it is not READY."""
    reasons = tuple(_reasons(facts))
    state = "DEGRADED" if reasons else "READY"
    return Health(state, f"{state} {summary(facts)}", reasons)


def _reasons(facts: Facts) -> list[str]:
    reasons = list(facts.problems)
    if facts.xds != "synced":
        reasons.append(f"control plane: {facts.xds}" + (f": {facts.xds_error}" if facts.xds_error else ""))
    if facts.workers_alive < facts.workers_wanted:
        reasons.append(f"workers: {facts.workers_alive} of {facts.workers_wanted} alive")
    if facts.pods_captured < facts.pods_wanted:
        reasons.append(f"pods: {facts.pods_captured} of {facts.pods_wanted} captured")
    for fact in facts.certificates:
        if fact.left_s is None:
            reasons.append(f"no certificate for {fact.identity}: {fact.error or 'not issued yet'}")
        elif fact.left_s <= 0:
            reasons.append(f"the certificate of {fact.identity} has expired: {fact.error}")
        elif fact.error and fact.left_s < CERTIFICATE_SHORT_S:
            reasons.append(
                f"the certificate of {fact.identity} ends in {duration(fact.left_s)}: {fact.error}"
            )
    return reasons


def summary(facts: Facts) -> str:
    """`gen=7f3a pods=2/2 xds=synced certs=2 min=11h58m drops/s=0`."""
    lefts = [fact.left_s for fact in facts.certificates if fact.left_s is not None]
    shortest = duration(max(0.0, min(lefts))) if lefts else "-"
    return (
        f"gen={facts.generation[:4]} pods={facts.pods_captured}/{facts.pods_wanted} xds={facts.xds} "
        f"certs={len(lefts)} min={shortest} drops/s={facts.drops_per_s:.3g}"
    )


def duration(seconds: float) -> str:
    """`11h58m`, `4m10s`, `9s`: the two largest units."""
    whole = int(seconds)
    for size, unit, next_size, next_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // next_size}{next_unit}"
    return f"{whole}s"
