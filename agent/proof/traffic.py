"""Holds what the kernel hands to the proxy against what the workers do with it, pod by pod. Pure.

A pod whose new connections are captured and accepted by nobody is cut off, whatever else looks well; so is one
whose tunnels all fail, or its handshakes with members of the mesh. Counters only grow; a window of the last rounds
says what has moved. What a stranger can fake (half-open scans, garbage on 15008) is a remark: no state follows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from agent.proof.findings import Finding, Link


@dataclass(frozen=True, slots=True)
class Subject:
    """A pod (`namespace/name`), or one of its addresses: what works over one family hides nothing of the other."""

    pod: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of one subject. `captured_*` are the kernel's, the others the workers' added up."""

    captured_outbound: int = 0
    captured_inbound: int = 0
    accepted_outbound: int = 0
    accepted_inbound: int = 0
    tunnels_made: int = 0
    tunnels_failed: int = 0
    handshakes_done: int = 0
    handshakes_failed: int = 0
    """With addresses from which the mesh expects HBONE: nobody else gets a connection established from there."""
    strangers_failed: int = 0
    """With all others."""


@dataclass(frozen=True, slots=True)
class Rule:
    """At least `tries` of something within the window, the window at least `over_s` long, and no success."""

    tries: int
    over_s: float


OUTBOUND = Rule(tries=3, over_s=3.0)
# A scan of the pod from outside leaves SYNs that nobody could have accepted.
INBOUND = Rule(tries=10, over_s=10.0)
PEERS = Rule(tries=3, over_s=3.0)
WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    counts: Counts


class TrafficWatch:
    """Remembers the last half minute of every pod's counters."""

    def __init__(self) -> None:
        self._samples: dict[Subject, deque[Sample]] = {}

    def update(
        self, now_s: float, counts: Mapping[Subject, Counts], last_errors: Mapping[Subject, str]
    ) -> list[Finding]:
        """A round: the counters, and the last failure of each subject's tunnels in words."""
        self._samples = {subject: self._samples.get(subject, deque()) for subject in counts}
        findings: list[Finding] = []
        for subject, current in counts.items():
            samples = self._samples[subject]
            still = bool(samples) and samples[-1].counts == current
            samples.append(Sample(now_s, samples[-1].counts if still else current))
            # One sample at least as old as the window stays: the window is measured from it.
            while len(samples) > 2 and samples[1].at_s <= now_s - WINDOW_S:
                samples.popleft()
            if samples[0].counts is samples[-1].counts:
                continue  # nothing has moved, as of most pods of a node: whatever moves is another object from there on
            findings += judge(subject, samples, last_errors.get(subject, ""))
        return findings


def judge(subject: Subject, samples: Iterable[Sample], last_error: str) -> list[Finding]:
    """What of a subject does not work, by its samples from old to new."""
    *earlier, newest = samples
    findings = []
    for rule, tries, successes, link, text, remedy, is_remark in _CHECKS:
        tried, succeeded = tries(newest.counts), successes(newest.counts)
        for old in reversed(earlier):
            # A worker that was replaced may have taken counts with it: less than before is nothing.
            if succeeded > successes(old.counts):
                break  # what worked within the window stands for the rest
            if tried - tries(old.counts) >= rule.tries and newest.at_s - old.at_s >= rule.over_s:
                is_told = last_error and link is Link.PEER and not is_remark
                why = f" (the last one: {last_error})" if is_told else ""
                whose = f" as {subject.address}" if subject.address else ""
                findings.append(Finding(link, subject.pod, text + whose + why, remedy, is_remark))
                break
    return findings


_CHECKS = (
    (
        OUTBOUND,
        attrgetter("captured_outbound"),
        attrgetter("accepted_outbound"),
        Link.LOOKUP,
        "its new connections are captured, but no worker accepts any",
        "`ztun maps dump stats` shows where they end; restarting the agent replaces the workers",
        False,
    ),
    (
        INBOUND,
        attrgetter("captured_inbound"),
        attrgetter("accepted_inbound"),
        Link.LOOKUP,
        "new connections to it are captured, but no worker accepts any",
        "a scan by half-open connections looks like this; else see `ztun maps dump stats`",
        True,
    ),
    (
        PEERS,
        attrgetter("tunnels_failed"),
        attrgetter("tunnels_made"),
        Link.PEER,
        "every HBONE connection it needs fails",
        "check the peer's node and port 15008 on the way to it, and both certificates",
        False,
    ),
    (
        INBOUND,
        attrgetter("handshakes_failed"),
        attrgetter("handshakes_done"),
        Link.PEER,
        "every mutual TLS handshake with it fails",
        "the access log names the peers; check that they trust this node's certificate authority",
        False,
    ),
    (
        INBOUND,
        attrgetter("strangers_failed"),
        attrgetter("handshakes_done"),
        Link.PEER,
        "every handshake of strangers fails, and nobody else makes one with it",
        "those are addresses of which the mesh expects no HBONE: a scan, or peers behind NAT; the access log has them",
        True,
    ),
)
