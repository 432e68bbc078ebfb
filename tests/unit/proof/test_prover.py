"""Rounds of proofs: what stands, what a failing or slow check becomes, and what is said before and without proof."""

from __future__ import annotations

import asyncio

from agent.proof.findings import Finding, Link
from agent.proof.prover import Prover

BROKEN = Finding(Link.NAMESPACE, "", "namespace ztun-pod is missing")


class Observed:
    """A check whose answer the test sets."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.error: Exception | None = None
        self.hangs = False

    async def __call__(self) -> list[Finding]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return self.findings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def prover(check: Observed, clock: Clock, **more: float) -> Prover:
    return Prover({"kernel": check}, wall=clock, clock=clock, **more)


def test_nothing_is_claimed_before_the_first_round() -> None:
    one = prover(Observed(), Clock())
    assert one.doubt == "nothing is proven yet: the first round of observations is under way"
    asyncio.run(one.prove())
    assert one.doubt == ""


def test_what_a_check_finds_stands_until_it_finds_it_no_more() -> None:
    check = Observed()
    one = prover(check, Clock())
    asyncio.run(one.prove())
    assert one.standing == ()
    check.findings = [BROKEN]
    asyncio.run(one.prove())
    assert [each.finding for each in one.standing] == [BROKEN]
    check.findings = []
    asyncio.run(one.prove())
    assert one.standing == ()


def test_a_check_that_fails_proves_nothing() -> None:
    check = Observed()
    check.error = OSError("netlink is gone")
    one = prover(check, Clock())
    asyncio.run(one.prove())
    (standing,) = one.standing
    assert standing.finding.link is Link.PROOF
    assert standing.finding.reason == "the proof of kernel failed: netlink is gone"


def test_a_check_that_hangs_proves_nothing_and_holds_nobody_up() -> None:
    check, well = Observed(), Observed()
    check.hangs, well.findings = True, [BROKEN]
    one = Prover({"kernel": check, "pods": well}, wall=Clock(), clock=Clock(), patience_s=0.01)
    asyncio.run(one.prove())
    assert [each.finding.link for each in one.standing] == [Link.NAMESPACE, Link.PROOF]


def test_an_old_proof_is_none() -> None:
    clock = Clock()
    one = prover(Observed(), clock)
    asyncio.run(one.prove())
    clock.now += 60
    assert one.doubt == "the last proof is 60 s old: the control process is overloaded or was stopped"
