"""Which connection `ztun doctor --flow` is asked about."""

from __future__ import annotations

import pytest

from agent.doctor.flow import ANY_PORT, Flow


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("192.0.2.1:4000-192.0.2.9:80", "192.0.2.1:4000"),
        ("192.0.2.1-192.0.2.9:80", f"192.0.2.1:{ANY_PORT}"),
        ("2001:db8::1-192.0.2.9:80", f"[2001:db8::1]:{ANY_PORT}"),
        ("[2001:db8::1]-192.0.2.9:80", f"[2001:db8::1]:{ANY_PORT}"),
        ("[2001:db8::1]:7-192.0.2.9:80", "[2001:db8::1]:7"),
    ],
)
def test_a_source_may_leave_its_port_out(text: str, source: str) -> None:
    flow = Flow.parse(text)
    assert (str(flow.source), str(flow.destination)) == (source, "192.0.2.9:80")


@pytest.mark.parametrize(
    "text", ["", "-", "192.0.2.1:0-192.0.2.9:80", "192.0.2.1-192.0.2.9", "a-192.0.2.9:80", "192.0.2.1"]
)
def test_a_destination_wants_its_port_and_both_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not SRC"):
        Flow.parse(text)
