"""Certificates of pods that a source wants: there in time, and not asked for in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.enroll.source import NotReady
from agent.identity.signer import SigningError
from agent.model.identity import Identity
from tests.support.enrolment import World, place, where
from tests.support.wishing_source import ONE, Source, world


def test_a_certificate_is_there_before_the_control_plane_lists_the_pod(tmp_path: Path) -> None:
    there = world(tmp_path, Source())
    identity = Identity(there.enroller.trust_domain, "apps", "newcomer")
    assert identity.trust_domain == "cluster.local"

    async def story() -> None:
        with there.enroller.expecting(identity):
            await there.enroller.certified(identity, 1)

    there.run(story)
    assert ("certificate", "newcomer") in there.events
    there.certificates.errors["newcomer"] = SigningError("the CA is busy", is_transient=True)
    with pytest.raises(NotReady, match="the CA is busy"):
        there.run(story)
    there.certificates.errors.clear()
    there.certificates.is_ready = False

    async def impatient() -> None:
        with there.enroller.expecting(identity):
            await there.enroller.certified(identity, 0.01)

    with pytest.raises(NotReady, match=r"within 0\.01 s"):
        there.run(impatient)


def test_the_certificate_is_fetched_while_the_pod_is_looked_for(tmp_path: Path) -> None:
    """The look waits for the kernel, far longer with many pods: one turn is enough to have them served."""
    source = Source()
    there = world(tmp_path, source)
    during: list[list[str]] = []
    there.kernel.after_look = lambda: during.append(accounts(there))
    source.wants()
    there.refresh()
    assert during == [["one"]] and there.pods() == ["apps/one"]
    source.refuses()
    there.refresh()
    assert accounts(there) == [], "nobody needs it"


def test_no_certificate_is_fetched_again_and_again_for_a_pod_that_is_not_found(tmp_path: Path) -> None:
    source = Source()
    there = world(tmp_path, source)
    there.kernel.places[where(1)] = place(1, "10.0.0.99")
    source.wants()
    there.refresh()
    during: list[list[str]] = []
    there.kernel.after_look = lambda: during.append(accounts(there))
    there.refresh()
    assert during == [[]] and not there.pods()


def test_a_next_agent_that_looks_before_it_knows_the_mesh_lets_no_certificate_go(tmp_path: Path) -> None:
    """What it let go it would ask for again a moment later."""
    there = world(tmp_path, Source())
    there.enroll(1, "one")
    after = World(tmp_path, ONE, kernel=there.kernel)
    after.run(after.enroller.take_over)
    assert accounts(after) == ["one"]
    after.refresh()
    assert accounts(after) == ["one"] and not after.pods()
    after.run(after.enroller.adopt)
    assert accounts(after) == ["one"] and after.pods() == ["apps/one"]
    after.unenroll("one")
    assert accounts(after) == []


def accounts(there: World) -> list[str]:
    return sorted(identity.service_account for identity in there.certificates.in_use)
