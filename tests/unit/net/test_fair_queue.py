"""Whose turn it is."""

from __future__ import annotations

import pytest

from agent.net.fair_queue import FairQueue


def test_each_has_its_turn_and_its_own_order() -> None:
    queue: FairQueue[int] = FairQueue(3)
    assert [queue.put("a", number) for number in range(5)] == [True] * 3 + [False] * 2
    assert queue.put("b", 10) and queue.put("c", 20) and queue.put("c", 21)
    assert [queue.take() for _ in range(4)] == [0, 10, 20, 1]
    assert queue.put("a", 5) and queue.put("b", 11)
    assert [queue.take() for _ in range(4)] == [21, 2, 11, 5]
    assert not queue
    with pytest.raises(IndexError):
        queue.take()
    assert queue.put("a", 6)
    queue.clear()
    assert not queue and queue.put("a", 7) and queue.take() == 7
