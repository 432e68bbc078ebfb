"""Pages of the agent as tables: what always says the same is shown only where more is asked for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from agent.cli import inspect, output

TUNNEL = {
    "direction": "outbound",
    "identity": "spiffe://td/ns/a/sa/b",
    "peer": "10.0.0.1:15008",
    "peer_address": "10.0.0.1:15008",
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


def test_wide_folds_no_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    name = (
        "demo/a-policy-whose-name-is-far-wider-than-a-terminal-of-eighty-columns-would-have-it-be-in-one-line"
    )
    policy = {
        "policy": name,
        "from": "auth.yaml",
        "scope": "namespace",
        "action": "allow",
        "rules": 1,
        "pods": 2,
    }
    monkeypatch.setattr(inspect.client, "ask", lambda *_: {"policies": [policy]})
    monkeypatch.setattr(output, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(inspect.policies, ["-o", "wide"]).stdout
    assert name in shown and "allow" in shown.splitlines()[1]


CONNECTION = {
    "pod": "demo/client-a",
    "direction": "outbound",
    "src": "10.77.1.11:45678",
    "original_dst": "10.77.2.12:8080",
    "actual_dst": "10.77.2.12:8080",
    "protocol": "HBONE",
    "client": "",
}


OURS, PEER = "spiffe://cluster.local/ns/demo/sa/client", "spiffe://cluster.local/ns/demo/sa/server"


def test_connections_keep_within_80_columns_and_wide_has_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [CONNECTION, {**CONNECTION, "direction": "inbound", "client": PEER}]
    monkeypatch.setattr(inspect.client, "ask", lambda *_: {"connections": rows})
    table, wide = (CliRunner().invoke(inspect.connections, ["-o", form]).stdout for form in ("table", "wide"))
    assert max(map(len, table.splitlines())) <= 80
    assert " ns/demo/sa/server\n" in table and "spiffe:" not in table
    assert f" {PEER} " in wide and " HBONE" in wide


@pytest.mark.parametrize("peer, is_short", [(PEER, True), ("spiffe://td/ns/a/sa/b", False), ("", True)])
def test_a_trust_domain_is_left_out_where_there_is_but_one(
    monkeypatch: pytest.MonkeyPatch, peer: str, is_short: bool
) -> None:
    tunnel = {**TUNNEL, "identity": OURS, "peer": peer}
    monkeypatch.setattr(inspect.client, "ask", lambda *_: {"tunnels": [tunnel]})
    table, wide = (CliRunner().invoke(inspect.tunnels, ["-o", form]).stdout for form in ("table", "wide"))
    assert OURS in wide and peer in wide
    assert (OURS in table) is not is_short and "ns/demo/sa/client" in table
    assert not is_short or max(map(len, table.splitlines())) <= 80


def test_services_say_how_many_endpoints_they_have_and_wide_which(monkeypatch: pytest.MonkeyPatch) -> None:
    service = {"service": "demo/server", "hostname": "server.demo.svc.cluster.local", "ports": ["80=8080"]}
    service |= {
        "vips": ["10.96.77.10", "fd77:96::10"],
        "waypoint": "",
        "endpoints": ["demo/server-a", "demo/b"],
    }
    monkeypatch.setattr(inspect.client, "ask", lambda *_: {"services": [service]})
    table, wide = (CliRunner().invoke(inspect.services, ["-o", form]).stdout for form in ("table", "wide"))
    assert table.splitlines()[1].split() == ["demo/server", "10.96.77.10,fd77:96::10", "80=8080", "-", "2"]
    assert "demo/server-a,demo/b" in wide and "server.demo.svc.cluster.local" in wide


def test_who_takes_how_much_of_a_pod_is_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = {"pod": "a/b", "limit": "L", "clients": "some", "from": ["namespaces=c"], "connections": 3}
    client = {"pod": "a/b", "client": "", "open": 2, "connections": 3, "by": {"connections": "L"}}
    told = {"limits": [limit], "clients": [client]}
    monkeypatch.setattr(inspect.client, "ask", lambda *_: told)
    table, wide, whole = (
        CliRunner().invoke(inspect.limits, ["-o", form]) for form in ("table", "wide", "json")
    )
    assert len(table.stdout.splitlines()) == 2 and "namespaces=c" not in table.stdout
    assert "namespaces=c" in wide.stdout
    assert wide.stdout.splitlines()[-1].split() == (
        ["a/b", "without", "an", "identity", "2", "3", "-", "-", "connections=L"]
    )
    assert json.loads(whole.stdout) == told
