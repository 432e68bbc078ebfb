"""Noise for SOCKS5: whatever a client says, it is asked for something or refused, however its bytes are split."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from agent.wire.socks5 import Asked, Conversation, NotServed

GREETINGS = st.sampled_from([b"\x05\x01\x00", b"\x05\x03\x02\x00\x01"])
REQUESTS = st.builds(
    lambda command, kind, rest: bytes((5, command, 0, kind)) + rest,
    st.sampled_from([1, 1, 1, 2, 3, 200]),
    st.sampled_from([1, 3, 4, 9]),
    st.binary(max_size=270),
)
TALKS = st.builds(lambda *parts: b"".join(parts), GREETINGS, REQUESTS) | st.binary(max_size=60)


def said(data: bytes, splits: list[int]) -> tuple[bytes, Asked | str | None, int]:
    """(answers, what came of it, bytes that were not read) where at most so many bytes come at a time, in turn."""
    conversation, answers, turn = Conversation(), b"", 0
    while data and (wanted := conversation.wanted):
        size = min(wanted, splits[turn % len(splits)])
        turn += 1
        read, data = data[:size], data[size:]
        try:
            answers += conversation.receive(read)
        except NotServed as error:
            return answers + error.answer, str(error), 0
    return answers, conversation.asked, len(data)


@given(TALKS, st.lists(st.integers(1, 7), min_size=1, max_size=5))
@example(b"\x05\x01\x00\x05\x01\x00\x03\x01.\x00\x50", [1])
def test_splits_change_nothing(data: bytes, splits: list[int]) -> None:
    assert said(data, splits) == said(data, [1000])
