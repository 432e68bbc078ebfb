"""When the keeper asks a CA again that failed, refused or is at its own end."""

from __future__ import annotations

import asyncio

import pytest

from agent.identity.keeper import State
from agent.identity.signer import SigningError
from tests.support.keeper import DB, LIFETIME_S, WEB, Rig, run


def test_whoever_waits_is_told_whether_the_failure_passes() -> None:
    async def body() -> None:
        rig = Rig()
        async with rig.running():
            for passes in (True, False):
                rig.signer.error, rig.signer.is_transient = "the CA is away", passes
                rig.keeper.set_in_use(())
                await rig.use(WEB)
                with pytest.raises(SigningError, match="the CA is away") as caught:
                    await rig.keeper.obtain(WEB)
                assert caught.value.is_transient is passes

    run(body)


@pytest.mark.parametrize("uri", [str(DB), None], ids=["of another", "of nobody"])
def test_an_answer_that_cannot_be_used_is_a_failure_with_a_reason(uri: str | None) -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.uri = lambda identity: uri
        async with rig.running():
            await rig.use(WEB)
            assert rig.given == [] and rig.keeper.get(WEB) is None
            assert rig.state(WEB) is State.UNAVAILABLE
            assert str(DB) in rig.keeper.held()[0].error or "no SPIFFE identity" in rig.keeper.held()[0].error

    run(body)


def test_failures_are_retried_ever_more_slowly_and_answered_from_memory() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.error = "refused"
        async with rig.running():
            await rig.use(WEB)
            pauses = []
            for number in range(1, 12):
                assert len(rig.signer.asked) == number
                with pytest.raises(SigningError, match="refused"):
                    await rig.keeper.obtain(WEB)
                await rig.clock.until_idle()
                assert len(rig.signer.asked) == number, "asking does not shorten the pause"
                due_s = rig.keeper.held()[0].next_attempt - rig.clock.now
                pauses.append(due_s)
                await rig.clock.advance(due_s)
            assert all(0.8 * min(2**n, 150) <= p <= 1.2 * min(2**n, 150) for n, p in enumerate(pauses))
            rig.signer.error = ""
            await rig.clock.advance(180)
            assert rig.keeper.held()[0].failures == 0 and rig.state(WEB) is State.AVAILABLE

    run(body)


def test_a_ca_at_its_own_end_is_not_asked_without_pause() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.lifetime_s = 1
        async with rig.running():
            await rig.use(WEB)
            assert len(rig.signer.asked) == 1
            assert rig.clock.next_wake_s == pytest.approx(1)

    run(body)


def test_when_the_ca_may_be_back_those_without_a_certificate_ask_at_once() -> None:
    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB)
            rig.signer.error, rig.signer.is_transient = "the CA is away", True
            await rig.use(WEB, DB)
            for _ in range(12):
                await rig.clock.advance(LIFETIME_S / 16)
            assert rig.keeper.get(WEB) is not None and rig.keeper.get(DB) is None
            rig.signer.asked.clear()
            rig.signer.error = ""
            rig.keeper.ask_again()
            await rig.clock.until_idle()
            assert rig.signer.asked == [DB], "the renewal of a valid one waits its time"
            assert rig.keeper.get(DB) is not None

    run(body)


def test_what_the_ca_refused_is_not_asked_again_because_it_is_back() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.error, rig.signer.is_transient = "not for you", False
        async with rig.running():
            await rig.use(DB)
            for _ in range(8):
                await rig.clock.advance(100)
            rig.signer.asked.clear()
            rig.keeper.ask_again()
            await rig.clock.until_idle()
            assert rig.signer.asked == []

    run(body)


DAY_S = 86400


def test_a_clock_that_is_set_back_postpones_no_retry() -> None:
    """A machine that starts with a wrong clock has it put right soon after."""

    async def body() -> None:
        rig = Rig()
        right = rig.clock.now
        rig.clock.now += 400 * DAY_S
        rig.signer.error = "the CA's certificate has expired"
        async with rig.running():
            await rig.use(WEB)
            # However often it failed by the wrong one.
            for _ in range(8):
                await rig.clock.advance(rig.keeper.held()[0].next_attempt - rig.clock.now)
            rig.clock.now, rig.signer.error = right, ""
            await rig.use(WEB)  # has it look at the clock
            assert rig.keeper.get(WEB) is not None

    run(body)


def test_a_certificate_of_before_the_clock_was_set_back_is_renewed_once() -> None:
    """It is not valid yet, and would not be for so long."""

    async def body() -> None:
        rig = Rig()
        right = rig.clock.now
        rig.clock.now += DAY_S / 2
        async with rig.running():
            await rig.use(WEB)
            rig.clock.now = right
            await rig.use(WEB)
            issued = rig.keeper.get(WEB)
            assert issued is not None and issued.not_before <= right
            for _ in range(3):
                await rig.clock.advance(60)
            assert len(rig.signer.asked) == 2

    run(body)


@pytest.mark.parametrize("jump_s", [3600, -3600], ids=["ahead", "back"])
def test_a_clock_that_jumps_by_an_hour_leaves_nobody_without_a_certificate(jump_s: int) -> None:
    """What was issued lasts an hour: by the new time it is over, or not valid yet."""

    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB)
            rig.clock.now += jump_s
            await rig.use(WEB)
            for _ in range(3):
                await rig.clock.advance(60)
            issued = rig.keeper.get(WEB)
            assert issued is not None and issued.not_before <= rig.clock.now < issued.not_after
            assert len(rig.signer.asked) == 2

    run(body)


def test_a_pod_that_is_being_started_has_a_ca_asked_again_that_has_not_heard_of_it_yet() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.error, rig.signer.is_transient = "no such pod yet", True
        async with rig.running(), asyncio.TaskGroup() as waiting:
            await rig.use(WEB)
            both = [waiting.create_task(rig.keeper.obtain_in_time(WEB)) for _ in range(2)]
            for _ in range(5):
                await rig.clock.advance(0.12)
            asked = len(rig.signer.asked)
            assert 2 < asked < 8 and not any(task.done() for task in both)
            rig.signer.error = ""
            await rig.clock.advance(1.2)
            assert len(rig.signer.asked) == asked + 1
        assert {(await task).identity for task in both} == {WEB}

    run(body)


@pytest.mark.parametrize("ends", ["forgotten", "refused"])
def test_what_does_not_pass_is_not_waited_for(ends: str) -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.error, rig.signer.is_transient = "the CA is away", True
        async with rig.running():
            await rig.use(WEB)
            task = asyncio.ensure_future(rig.keeper.obtain_in_time(WEB))
            await rig.clock.until_idle()
            if ends == "forgotten":
                rig.keeper.set_in_use(())
            else:
                rig.signer.error, rig.signer.is_transient = "not for you", False
                await rig.clock.advance(0.2)
            with pytest.raises(SigningError, match="is not in use" if ends == "forgotten" else "not for you"):
                await task

    run(body)
