"""A mesh that is composed change by change is the mesh that is composed at once, whatever changes."""

from __future__ import annotations

from random import Random

import pytest

from agent.controlplane.read.admission import NOTHING, Standing, admit
from agent.controlplane.read.changes import between
from agent.controlplane.read.inventory import collect
from agent.controlplane.read.manifests import parse
from agent.controlplane.translate.compose import Composed
from agent.controlplane.translate.mesh import MeshSettings, discovered, mesh_of
from tests.support.controlplane import deny, pod
from tests.unit.controlplane.translate.places import PLACES

SETTINGS = MeshSettings()


@pytest.mark.parametrize("seed", range(8))
def test_change_by_change_is_the_same_as_at_once(seed: int) -> None:
    rng = Random(seed)
    standing: Standing = admit(NOTHING, {}, is_first=True)
    composed = Composed(collect([]), {}, SETTINGS)
    texts: dict[str, str] = {}
    apart = 0
    for _ in range(100):
        for place in rng.sample(sorted(PLACES), rng.choice((1, 1, 2))):
            texts.pop(place, None)
            if rng.random() < 0.75:
                texts[place] = rng.choice(PLACES[place])
        after = admit(standing, {name: parse(name, text) for name, text in texts.items()})
        enrolled = {n: tuple(("demo", p) for p in ("p0", "p1") if rng.random() < 0.5) for n in ("n1", "n2")}
        everything = collect(after.served())
        inventory = discovered(everything, mesh_of(everything, SETTINGS))
        whole = Composed(inventory, enrolled, SETTINGS)
        changes = between(standing, after)
        if composed.is_whole_affair(changes):
            composed = whole
        else:
            composed = composed.changed(changes).with_enrolled(enrolled)
            apart += 1
        standing = after
        assert dict(composed.snapshot.addresses) == dict(whole.snapshot.addresses)
        assert list(composed.snapshot.addresses) == list(whole.snapshot.addresses)
        assert dict(composed.snapshot.policies) == dict(whole.snapshot.policies)
        assert {p.meta.key for p in composed.inventory.pods} == {p.meta.key for p in whole.inventory.pods}
    assert apart > 20


def test_a_policy_touches_those_that_it_selects_and_no_others() -> None:
    texts = {f"p{n}": pod(f"p{n}", "n1", f"10.0.0.{n}", labels=f"app: a{n}") for n in range(1, 9)}
    before = admit(NOTHING, {name: parse(name, text) for name, text in texts.items()}, is_first=True)
    composed = Composed(collect(before.served()), {}, SETTINGS)
    texts["d"] = deny("d", "app: a3")
    after = admit(before, {name: parse(name, text) for name, text in texts.items()})
    changed = composed.changed(between(before, after))
    assert changed.snapshot.touched == {"Kubernetes//Pod/demo/p3"}
    assert changed.snapshot.base is composed.snapshot.addresses
    texts["d"] = deny("d")
    whole_namespace = changed.changed(
        between(after, admit(after, {name: parse(name, text) for name, text in texts.items()}))
    )
    assert whole_namespace.snapshot.addresses == composed.snapshot.addresses
