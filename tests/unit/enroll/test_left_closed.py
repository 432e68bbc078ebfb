"""What is captured and not served, as people are told of it."""

from __future__ import annotations

from agent.enroll import left_closed
from agent.enroll.held import HeldInterfaces
from redirect.errors import StepFailed


def test_a_pod_that_the_kernel_refuses_to_close_is_said_to_be_open_with_what_to_do() -> None:
    failures = [StepFailed("veth3: attach from_pod", "no room", 3), StepFailed("veth4: attach", "no room", 4)]
    failures[0].is_open = True
    one, other = left_closed.refused(failures, HeldInterfaces())
    assert str(one).startswith(f"{left_closed.OPEN} (veth3: attach from_pod: no room); ")
    assert "end the pod" in one.remedy
    assert str(other) == "veth4: attach: no room"
