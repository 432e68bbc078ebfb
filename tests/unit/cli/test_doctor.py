"""What `ztun doctor` prints, and how wide."""

from __future__ import annotations

from agent.cli.doctor import remedy
from agent.doctor.check import Subject

CHECK = Subject("inner MTU", "the devices")
COMMAND = (
    "ip link set dev ztun-pod mtu 1500 && ip link set dev ztun-net mtu 1500 && ip link show dev ztun-pod"
)


def test_a_remedy_keeps_within_the_width_and_its_command_is_on_one_line() -> None:
    lines = remedy(CHECK.failed("it is too small", "make both as large; " * 5 + "look", COMMAND), 60).split(
        "\n"
    )
    assert lines.pop().strip() == COMMAND
    assert max(map(len, lines)) <= 60
    assert " ".join(" ".join(lines).split()) == f"inner MTU: {'make both as large; ' * 5}look:"


def test_a_remedy_without_a_command_is_words_alone() -> None:
    assert remedy(CHECK.warning("it is small", "look"), 60) == "inner MTU: look"
