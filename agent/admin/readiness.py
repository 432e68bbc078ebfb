"""Is the agent well? A pure judgement over facts that others report, and the one line that says it.

READY: everything enrolled is served, by current state and valid certificates. DEGRADED: something a person
should look at, each with its reason; traffic goes on as far as it safely can. (DEAD is what the command line
says when nobody answers.)
"""

from __future__ import annotations

from dataclasses import dataclass

CERTIFICATE_SHORT_S, AUTHORITY_SHORT_S = 600.0, 86400.0
"""Seconds before its end: of a certificate that was not renewed, and of an authority that nobody here can renew."""
XDS, WORKERS, PODS, CERTIFICATES, OTHER = "xds", "workers", "pods", "certificates", "other"
"""Topics of the reasons that are found here; a problem that a proof found has the link it broke as its topic."""


@dataclass(frozen=True, slots=True)
class CertificateFact:
    identity: str
    left_s: float | None
    """Seconds until it expires; None: there is none."""
    error: str = ""
    ended_by: str = ""
    """The authority above it that ends then, where that is before its own end."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the agent is not READY: a word to count it by, and a sentence for people."""

    topic: str
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known now."""

    form: str
    """Of the code: `pure`, or `compiled:52` with the number of modules."""
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
    problems: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    state: str
    line: str
    causes: tuple[Reason, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(cause.text for cause in self.causes)


def judge(facts: Facts) -> Health:
    """The state of the agent, with every reason it is not READY."""
    reasons = tuple(_reasons(facts))
    state = "DEGRADED" if reasons else "READY"
    return Health(state, f"{state} {summary(facts)}", reasons)


def _reasons(facts: Facts) -> list[Reason]:
    reasons = list(facts.problems)
    if facts.xds != "synced":
        text = f"control plane: {facts.xds}" + (f": {facts.xds_error}" if facts.xds_error else "")
        reasons.append(Reason(XDS, text))
    if facts.workers_alive < facts.workers_wanted:
        reasons.append(Reason(WORKERS, f"workers: {facts.workers_alive} of {facts.workers_wanted} alive"))
    if facts.pods_captured < facts.pods_wanted:
        reasons.append(Reason(PODS, f"pods: {facts.pods_captured} of {facts.pods_wanted} served"))
    reasons += [Reason(CERTIFICATES, text) for text in map(_of_certificate, facts.certificates) if text]
    return reasons if facts.xds == "synced" else [_told_once(each, facts) for each in reasons]


def _told_once(reason: Reason, facts: Facts) -> Reason:
    """What fails for the reason for which there is no control plane says so in a word: one paragraph is enough."""
    if not facts.xds_error or reason.topic == XDS:
        return reason
    text = reason.text
    for what in ("control plane ", "CA "):
        text = text.replace(
            what + facts.xds_error.removeprefix("control plane "), "see the control plane's reason"
        )
    return Reason(reason.topic, text)


def _of_certificate(fact: CertificateFact) -> str:
    if fact.left_s is None:
        return f"no certificate for {fact.identity}: {fact.error or 'not issued yet'}"
    if fact.left_s <= 0:
        return f"the certificate of {fact.identity} has expired: {fact.error}"
    if fact.error and fact.left_s < CERTIFICATE_SHORT_S:
        return f"the certificate of {fact.identity} ends in {duration(fact.left_s)}: {fact.error}"
    if fact.ended_by and fact.left_s < AUTHORITY_SHORT_S:
        return (
            f"the certificate of {fact.identity} ends in {duration(fact.left_s)} with the authority {fact.ended_by} "
            "above it: renew that at the CA"
        )
    return ""


def summary(facts: Facts) -> str:
    """`gen=7f3a pods=2/2 xds=synced certs=2 min=11h58m drops/s=0 form=pure`."""
    lefts = [fact.left_s for fact in facts.certificates if fact.left_s is not None]
    shortest = duration(max(0.0, min(lefts))) if lefts else "-"
    return (
        f"gen={facts.generation[:4]} pods={facts.pods_captured}/{facts.pods_wanted} xds={facts.xds} "
        f"certs={len(lefts)} min={shortest} drops/s={facts.drops_per_s:.3g} form={facts.form}"
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
