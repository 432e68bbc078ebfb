"""The control plane: away again and again, slow, silent, garbled, lying, forgetful. Policy holds all the while."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.fault import Apply, Fault
from tests.chaos.losses import Allowed
from tests.chaos.relay import HONEST, Manner
from tests.chaos.schedule import Span
from tests.chaos.stage import LIAR_PORT, Stage

HEALS_S = 60.0
NOTHING = Allowed(HEALS_S)
PAUSE_S = 0.5


def behaving(manner: Manner) -> Apply:
    @contextmanager
    def behaves(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
        stage.relay.become(manner, seed=chances.getrandbits(32))
        try:
            yield
        finally:
            stage.relay.become(HONEST)

    return behaves


@contextmanager
def flaps(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """It is killed and started again, three times."""
    for _ in range(3):
        if stage.plane is not None:
            stage.kill(stage.plane.pid)
        threading.Event().wait(chances.uniform(0, PAUSE_S))
        stage.start_plane()
    yield


@contextmanager
def lies(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """Agents speak to somebody with a good certificate who garbles, repeats and invents what the real one says."""
    former = stage.relay.leads_to
    stage.relay.become(HONEST, leads_to=(former[0], LIAR_PORT))
    try:
        yield
    finally:
        stage.relay.become(HONEST, leads_to=former)


@contextmanager
def forgets(stage: Stage, node: str, chances: random.Random) -> Iterator[None]:
    """It comes back with the state directory of before any pod was enrolled."""
    plane = stage.plane
    if plane is not None:
        os.kill(plane.pid, signal.SIGKILL)
        stage.kill(plane.pid)
    shutil.rmtree(stage.world.mesh.state_dir)
    shutil.copytree(stage.backup, stage.world.mesh.state_dir)
    stage.start_plane()
    yield


FAULTS = {
    "plane-cut": Fault(
        "connections to the control plane end after a second",
        Span(2, 10),
        NOTHING,
        behaving(Manner(lives_s=1)),
    ),
    "plane-slow": Fault(
        "each piece to or from the control plane takes half a second",
        Span(2, 10),
        NOTHING,
        behaving(Manner(delay_s=0.5)),
    ),
    "plane-silent": Fault(
        "the control plane takes connections and says nothing",
        Span(2, 12),
        NOTHING,
        behaving(Manner(is_silent=True)),
    ),
    "plane-refuses": Fault(
        "connections to the control plane are closed at once",
        Span(2, 12),
        NOTHING,
        behaving(Manner(refuses=True)),
    ),
    "plane-garbled": Fault(
        "a bit is wrong in a third of what comes and goes", Span(2, 10), NOTHING, behaving(Manner(spoils=0.3))
    ),
    "plane-flaps": Fault("the control plane is killed three times", Span(0.1, 1), NOTHING, flaps),
    # Alone: an agent that begins with nothing has to believe what little somebody with the mesh's certificate tells it.
    "plane-lies": Fault(
        "another server garbles, repeats and invents what the control plane says",
        Span(3, 12),
        NOTHING,
        lies,
        is_alone=True,
    ),
    "plane-forgets": Fault(
        "the control plane comes back with an old state directory", Span(0.1, 2), NOTHING, forgets, True
    ),
}
