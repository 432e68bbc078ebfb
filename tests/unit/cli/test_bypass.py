"""What `ztun bypass` and `ztun eject` refuse before they look at the kernel, and how a time is written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.cli import status, system_log
from agent.cli.bypass import bypass
from agent.cli.eject import eject
from agent.cli.kinds import Span


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo/a", "--for", "24h1s", "--reason", "x"), "24h1s is not between 1s and 24h"),
        (("demo/a", "--for", "0m", "--reason", "x"), "0m is not between 1s and 24h"),
        (("demo/a", "--for", "15", "--reason", "x"), "'15' is no time"),
        (("demo/a", "--for", "15m", "--reason", " \n"), "say why"),
        (("demo/a", "--for", "15m"), "say why"),
        (("demo/a", "--reason", "x"), "say how long"),
        (("--off",), "name the pods"),
        (("--for", "15m"), "name the pods"),
        (("--node", "demo/a", "--off"), "not both"),
        (("demo/a", "--off", "--for", "1m"), "--off ends what is open now"),
    ],
)
def test_a_bypass_without_a_pod_an_end_or_a_reason_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(bypass, arguments)
    assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo/a",), "say why"),
        (("--reason", "x"), "name the pods"),
        (("demo/a", "--node", "--reason", "x"), "name the pods"),
    ],
)
def test_an_eject_says_whom_and_why(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(eject, arguments)
    assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("24h", 86400)])
def test_a_span_is_written_with_its_units(text: str, seconds: int) -> None:
    assert Span(86400.0).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "1.5h", "-1m", "1d", "1m 30s", "٣m", "9" * 400 + "h"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        Span(86400.0).convert(text, None, None)


def test_a_note_goes_to_the_system_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = tmp_path / "kmsg"
    monkeypatch.setattr(system_log, "SYSLOG", tmp_path / "log")
    monkeypatch.setattr(system_log, "KERNEL_LOG", kernel)
    assert system_log.note("nobody hears").startswith("not noted")
    kernel.touch()
    assert "kernel's log" in system_log.note("the kernel hears")
    assert kernel.read_text().startswith("<28>ztun[") and kernel.read_text().endswith("]: the kernel hears\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        assert system_log.note("syslog hears").startswith("noted in the system log")
        assert log.recv(1000).endswith(b"]: syslog hears")


def test_a_status_without_an_agent_says_what_is_open() -> None:
    row = {
        "scope": "pod",
        "pod": "demo/a",
        "interface": "veth1",
        "left_s": 75.0,
        "who": "root",
        "reason": "why",
    }
    assert status.bypass_words(row) == "pod demo/a speaks in clear for 1m15s more: why (by root)"
    assert status.bypass_words({**row, "scope": "node"}).startswith("all pods speak in clear")


def test_where_nothing_is_pinned_it_may_have_been_uninstalled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = CliRunner().invoke(bypass, ["--instance", "nobody", "--run-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "no agent's programs are here (uninstalled, or none has ever run)" in done.output
