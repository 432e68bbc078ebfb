"""What a new agent writes into `conf`, and what of an earlier one's it leaves there."""

from __future__ import annotations

from redirect.conf import Conf
from redirect.desired import NodeRules
from redirect.layout import NO_MAC

NOTHING = Conf(0, 0, 0, 0, NO_MAC)


def test_each_map_has_a_key_of_its_own_and_keeps_it() -> None:
    """Workers that live on were told it."""
    first, second = NodeRules().conf(NOTHING), NodeRules().conf(NOTHING)
    assert first.choice_key and second.choice_key and first.choice_key != second.choice_key
    assert NodeRules(strangers_per_s=7).conf(first).choice_key == first.choice_key
