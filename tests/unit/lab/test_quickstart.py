"""What the quickstart says that it does to a machine is what it does."""

from __future__ import annotations

from agent.lab.quickstart import changes


def test_a_lab_that_is_kept_is_not_said_to_be_removed() -> None:
    assert changes("x", keep=False).endswith("All of it is removed at the end.")
    kept = changes("x", keep=True)
    assert "removed" not in kept and "ztun lab down" in kept
