"""What is counted of hand-overs: by the giver, whose counters its successor goes on with."""

from __future__ import annotations

from agent.handover.giving import Account, Why
from agent.proxy.moving_links import CLIENT, SERVER
from agent.proxy.moving_plain import DIAL, RELAY
from agent.proxy.moving_waits import ASKING, CALLER, SEEKING
from agent.telemetry import families
from agent.telemetry.families import HAND_OVER_PAUSE_BUCKETS_S, SUM, bucket
from agent.telemetry.metrics import Figures

KINDS = (RELAY, DIAL, CLIENT, SERVER, ASKING, CALLER, SEEKING)
"""Of units."""
INFINITY = float("inf")


def begin(figures: Figures) -> None:
    """From zero on, so that rates see the first of each."""
    for kind in KINDS:
        figures.add(families.HANDED_OVER, kind, count=0)
    for why in Why:
        figures.add(families.NOT_HANDED_OVER, why.value, count=0)
    for bound in (*HAND_OVER_PAUSE_BUCKETS_S, INFINITY):
        figures.add(families.HAND_OVER_PAUSE, bucket(bound), count=0)
    figures.add(families.HAND_OVER_PAUSE, SUM, count=0)


def count(figures: Figures, account: Account) -> None:
    for kind, many in account.moved.items():
        figures.add(families.HANDED_OVER, kind, count=many)
    for stays in account.stays:
        figures.add(families.NOT_HANDED_OVER, stays.why.value, count=stays.count)
    for pause_s in account.pauses_s:
        for bound in (*HAND_OVER_PAUSE_BUCKETS_S, INFINITY):
            if pause_s <= bound:
                figures.add(families.HAND_OVER_PAUSE, bucket(bound))
        figures.add(families.HAND_OVER_PAUSE, SUM, count=pause_s)
