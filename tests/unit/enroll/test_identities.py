"""For whom certificates are asked, and when: as soon as a pod is wished for, once for all pods of an account."""

from __future__ import annotations

from agent.enroll.identities import IdentitiesInUse
from agent.identity.schedule import Priority
from tests.support.keeper import DB, WEB, Rig, run


def test_pods_of_one_account_share_a_certificate_that_goes_with_the_last_of_them() -> None:
    async def body() -> None:
        rig = Rig()
        in_use = IdentitiesInUse(rig.keeper)
        async with rig.running():
            with in_use.expecting(WEB, None), in_use.expecting(WEB):
                await rig.clock.until_idle()
                assert rig.signer.asked == [WEB], "before anything else of the pod is known"
                in_use.judged(frozenset({WEB, DB}))
            await rig.clock.until_idle()
            assert sorted(rig.signer.asked) == sorted((WEB, DB)) and not rig.forgotten
            in_use.judged(frozenset({DB}))
            await rig.clock.until_idle()
            assert rig.forgotten == [WEB] and in_use.uncertified(DB) == ""

    run(body)


def test_it_is_asked_ahead_of_renewals_and_behind_what_a_connection_waits_for() -> None:
    async def body() -> None:
        rig = Rig()
        rig.signer.gate.clear()
        in_use = IdentitiesInUse(rig.keeper)
        async with rig.running():
            in_use.judged(frozenset({WEB}))
            await rig.clock.until_idle()
            assert [each.priority for each in rig.keeper.held()] == [Priority.WARMUP]
            assert in_use.uncertified(WEB) == "not issued yet"
            rig.signer.gate.set()
            await rig.clock.until_idle()
            assert [each.priority for each in rig.keeper.held()] == [Priority.BACKGROUND]

    run(body)
