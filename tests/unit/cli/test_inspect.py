"""Pages of the agent as tables: what always says the same is shown only where more is asked for."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from agent.cli import inspect

TUNNEL = {
    "direction": "outbound",
    "identity": "spiffe://td/ns/a/sa/b",
    "peer": "10.0.0.1:15008",
    "suite": "TLS_AES_128_GCM_SHA256",
    "group": "X25519",
    "tunnels": 1,
    "unread_bytes": 0,
    "waiting": 0,
}


@pytest.mark.parametrize("more, shows", [((), False), (("-o", "wide"), True), (("-o", "json"), True)])
def test_tls_of_tunnels_is_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], shows: bool
) -> None:
    monkeypatch.setattr(inspect.client, "ask", lambda *_: {"tunnels": [TUNNEL]})
    done = CliRunner().invoke(inspect.tunnels, more)
    assert done.exit_code == 0 and "10.0.0.1:15008" in done.stdout
    assert ("TLS_AES_128_GCM_SHA256" in done.stdout) is shows


def test_a_list_without_more_has_no_wide_form() -> None:
    assert CliRunner().invoke(inspect.connections, ["-o", "wide"]).exit_code == 2
