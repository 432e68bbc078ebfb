"""The mutable cell: swap first, then tell, in order; silence when nothing changed."""

from __future__ import annotations

import pytest

from agent.state.snapshot import EMPTY
from agent.state.store import Store
from tests.support.mesh import batch, workload

W = workload("w", "10.0.0.1")


def test_listeners_hear_in_order_after_the_swap() -> None:
    store = Store(EMPTY)
    heard = []
    store.subscribe(lambda snap, changes: heard.append(("first", snap is store.current, changes.workloads)))
    store.subscribe(lambda snap, changes: heard.append(("second", snap is store.current, changes.workloads)))
    changes = store.apply(batch(W))
    assert changes.workloads == {W.uid}
    assert heard == [("first", True, {W.uid}), ("second", True, {W.uid})]
    assert store.current.workloads == {W.uid: W}


def test_nothing_changed_is_not_told() -> None:
    store = Store(EMPTY)
    store.apply(batch(W))
    before, heard = store.current, []
    store.subscribe(lambda *args: heard.append(args))
    assert not store.apply(batch(W))
    assert heard == []
    assert store.current is before


def test_failing_listener_is_not_swallowed() -> None:
    store = Store(EMPTY)

    def fail(*_: object) -> None:
        raise RuntimeError("registry")

    store.subscribe(fail)
    with pytest.raises(RuntimeError, match="registry"):
        store.apply(batch(W))
    assert W.uid in store.current.workloads
