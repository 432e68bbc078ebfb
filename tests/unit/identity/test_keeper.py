"""The keeper with a CA and a clock under the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime

import pytest

from agent.defects import DEFECT, Defects
from agent.identity import keeper
from agent.identity.bundle import Issued
from agent.identity.keeper import MAX_WAIT_S, State, wait_for_event
from agent.identity.schedule import Priority
from agent.identity.signer import SigningError
from agent.model.identity import Identity
from tests.support.certs import pem
from tests.support.keeper import API, CA, DB, LIFETIME_S, WEB, Rig, run
from tests.support.xds import MeshCA


def test_each_identity_in_use_gets_one_certificate() -> None:
    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB, DB)
            await rig.use(WEB, DB)
            assert sorted(rig.signer.asked) == [DB, WEB]
            assert sorted(i for i, _ in rig.given) == [DB, WEB]
            issued = rig.keeper.get(WEB)
            assert issued is not None and issued.identity == WEB
            assert rig.keeper.authorities() == {*issued.chain[1:], *issued.roots} != set()
            held = {h.identity: h for h in rig.keeper.held()}
            assert list(held) == [DB, WEB]
            assert held[WEB].state is State.AVAILABLE and held[WEB].error == ""
            assert held[WEB].not_after == rig.clock.now + LIFETIME_S

    run(body)


def test_what_came_as_a_root_and_can_be_none_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.more_roots = pem(CA.issue(str(DB)).leaf).decode()
        async with rig.running():
            await rig.use(WEB)
            assert rig.keeper.get(WEB) is not None

    run(body)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "no CA certificates" in warning and str(DB) in warning


def test_a_fault_of_ours_with_an_answer_ends_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "defects", Defects(keeper.log))

    def broken(*_: object) -> Issued:
        raise KeyError("here")

    async def body() -> None:
        rig = Rig()
        monkeypatch.setattr(keeper, "read_answer", broken)
        async with rig.running():
            await rig.use(WEB)
            assert rig.keeper.held()[0].error == f"{DEFECT}: KeyError: 'here'"

    run(body)
    [first, *again] = [
        record
        for record in caplog.records
        if DEFECT in record.getMessage() and "taken" in record.getMessage()
    ]
    assert first.exc_info and not any(record.exc_info for record in again)


def test_renews_at_half_of_the_lifetime() -> None:
    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB)
            for _ in range(LIFETIME_S // 120):
                assert rig.clock.next_wake_s <= MAX_WAIT_S, "the wall clock is looked at often"
                assert len(rig.signer.asked) == 1
                await rig.clock.advance(59.9)
            await rig.clock.advance(LIFETIME_S / 2 - (LIFETIME_S // 120) * 59.9)
            assert len(rig.signer.asked) == 2
            first, second = (issued for _, issued in rig.given)
            assert rig.keeper.get(WEB) is second and second.key is not first.key
            assert rig.forgotten == []

    run(body)


def test_an_authority_that_ends_first_ends_its_certificates_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        rig = Rig()
        end = rig.clock.now + LIFETIME_S / 2
        rig.signer.issuing = MeshCA(parent=CA, name="issuing CA", not_after=datetime.fromtimestamp(end, UTC))
        async with rig.running():
            await rig.use(WEB)
            [held] = rig.keeper.held()
            assert held.not_after == end and "issuing CA" in held.ended_by
            assert held.next_attempt == rig.clock.now + LIFETIME_S / 4, "half of what it is good for"
            rig.signer.error = "the CA is away"
            await rig.clock.advance(LIFETIME_S / 2)
            assert rig.forgotten == [WEB] and rig.keeper.get(WEB) is None

    run(body)
    [error] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "the authority 'CN=issuing CA" in error and "above its certificate has expired" in error


def test_a_failed_renewal_keeps_what_is_valid_until_it_expires() -> None:
    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB)
            first = rig.keeper.get(WEB)
            rig.signer.error = "the CA is away"
            while rig.clock.now < first.not_after - 1:
                await rig.clock.advance(min(rig.clock.next_wake_s, first.not_after - 1 - rig.clock.now))
                assert rig.keeper.get(WEB) is first and rig.state(WEB) is State.AVAILABLE
            assert "the CA is away" in rig.keeper.held()[0].error, "status tells of it all the same"
            assert 15 < len(rig.signer.asked) < 30, "with growing pauses"
            assert rig.forgotten == []

            await rig.clock.advance(1)
            assert rig.keeper.get(WEB) is None and rig.forgotten == [WEB]
            [held] = rig.keeper.held()
            assert held.state is State.UNAVAILABLE and held.not_after is None
            with pytest.raises(SigningError, match="the CA is away"):
                await rig.keeper.obtain(WEB)

            rig.signer.error = ""
            await rig.clock.advance(180)
            assert rig.state(WEB) is State.AVAILABLE and rig.given[-1][1] is rig.keeper.get(WEB)

    run(body)


def test_a_certificate_expires_on_time_while_its_renewal_hangs() -> None:
    async def body() -> None:
        rig = Rig(concurrency=1)
        async with rig.running():
            await rig.use(WEB)
            rig.signer.gate.clear()
            await rig.clock.advance(MAX_WAIT_S)
            rig.clock.now += LIFETIME_S / 2
            await rig.use(WEB, DB)
            assert rig.signer.under_way == [DB], "the first fetch goes first, and hangs"
            rig.clock.now = rig.keeper.held()[1].not_after - 5
            await rig.use(WEB, DB)
            assert rig.clock.next_wake_s == 5
            await rig.clock.advance(5)
            assert rig.forgotten == [WEB] and rig.keeper.get(WEB) is None

    run(body)


def test_nobody_is_handed_a_certificate_that_has_just_expired() -> None:
    """Before the keeper itself has woken up to let it go."""

    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB)
            end = rig.clock.now + LIFETIME_S
            rig.clock.now = end - 1
            assert (await rig.keeper.obtain(WEB)).not_after == end and rig.keeper.get(WEB) is not None
            rig.clock.now = end
            assert rig.keeper.get(WEB) is None
            with pytest.raises(SigningError, match="has just expired"):
                await rig.keeper.obtain(WEB)

    run(body)


def test_expiry_is_tried_once_more_at_the_last_moment() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.lifetime_s = 4
        async with rig.running():
            await rig.use(WEB)
            rig.signer.error = "the CA is away"
            await rig.clock.advance(2)
            await rig.clock.advance(rig.clock.next_wake_s)
            asked = len(rig.signer.asked)
            rig.signer.error = ""
            await rig.clock.advance(rig.clock.next_wake_s)
            assert len(rig.signer.asked) == asked + 1 and rig.state(WEB) is State.AVAILABLE

    run(body)


def test_at_most_so_many_at_once_and_the_urgent_first() -> None:
    async def body() -> None:
        rig = Rig(concurrency=3)
        rig.signer.gate.clear()
        crowd = [Identity("cluster.local", "apps", f"a{n:02}") for n in range(10)]
        async with rig.running():
            await rig.use(*crowd)
            assert rig.signer.under_way == crowd[:3]
            rig.keeper.hurry(crowd[9])
            await rig.clock.until_idle()
            assert len(rig.signer.under_way) == 3
            rig.signer.gate.set()
            await rig.clock.until_idle()
            assert rig.signer.asked[3] == crowd[9]
            assert sorted(rig.signer.asked) == crowd and rig.signer.most_under_way == 3

    run(body)


def test_first_fetches_go_before_renewals() -> None:
    async def body() -> None:
        rig = Rig(concurrency=1)
        async with rig.running():
            await rig.use(WEB, DB)
            rig.signer.gate.clear()
            rig.clock.now += LIFETIME_S / 2  # both are due for renewal
            await rig.use(WEB, DB, API)
            rig.signer.gate.set()
            await rig.clock.until_idle()
            assert rig.signer.asked[2] == API
            assert {h.priority for h in rig.keeper.held()} == {Priority.BACKGROUND}

    run(body)


def test_those_who_wait_share_the_first_fetch() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.gate.clear()
        async with rig.running():
            await rig.use(WEB)
            assert rig.state(WEB) is State.INITIALIZING
            async with asyncio.TaskGroup() as tasks:
                waiting = [tasks.create_task(rig.keeper.obtain(WEB)) for _ in range(5)]
                await rig.clock.until_idle()
                rig.signer.gate.set()
            assert len({id(task.result()) for task in waiting}) == 1 and rig.signer.asked == [WEB]

    run(body)


def test_forgotten_while_it_is_fetched() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.gate.clear()
        async with rig.running():
            await rig.use(WEB)
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(refusal(rig.keeper.obtain(WEB)))
                await rig.clock.until_idle()
                await rig.use()
            assert "was forgotten" in waiting.result()
            rig.signer.gate.set()
            await rig.clock.until_idle()
            assert rig.given == [] and rig.keeper.held() == (), "the answer that comes late is dropped"
            assert "not in use" in await refusal(rig.keeper.obtain(WEB))

    run(body)


async def refusal(waiting: Coroutine[None, None, Issued]) -> str:
    with pytest.raises(SigningError) as caught:
        await waiting
    return str(caught.value)


def test_back_in_use_while_the_old_fetch_is_under_way() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.gate.clear()
        async with rig.running():
            await rig.use(WEB)
            await rig.use()
            await rig.use(WEB)
            assert rig.signer.asked == [WEB], "the signer asserts that there is never a second"
            rig.signer.gate.set()
            await rig.clock.until_idle()
            assert rig.state(WEB) is State.AVAILABLE and rig.signer.asked == [WEB]

    run(body)


def test_forgetting_withdraws_what_was_given_out() -> None:
    async def body() -> None:
        rig = Rig()
        async with rig.running():
            await rig.use(WEB, DB)
            await rig.use(DB)
            assert rig.forgotten == [WEB] and rig.keeper.get(WEB) is None
            await rig.clock.advance(LIFETIME_S / 2)
            assert rig.signer.asked.count(WEB) == 1 and rig.signer.asked.count(DB) == 2

    run(body)


def test_stopping_ends_the_fetches_under_way() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.gate.clear()
        async with rig.running():
            await rig.use(WEB, DB)
        assert rig.signer.under_way == []

    run(body)


def test_waiting_ends_with_the_event_or_the_time() -> None:
    async def body() -> None:
        event = asyncio.Event()
        await wait_for_event(event, 0.0)
        event.set()
        await wait_for_event(event, 3600.0)

    run(body)
