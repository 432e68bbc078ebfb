"""Messages on a stream, however it is cut."""

from __future__ import annotations

import pytest

from agent.dns.framing import framed, take_message

MESSAGES = (b"a" * 12, b"", bytes(range(256)) * 255)


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_messages_come_out_as_they_went_in(step: int) -> None:
    stream = b"".join(map(framed, MESSAGES))
    arrived, taken = bytearray(), []
    for at in range(0, len(stream), step):
        arrived += stream[at : at + step]
        while (message := take_message(arrived)) is not None:
            taken.append(message)
    assert tuple(taken) == MESSAGES and not arrived
