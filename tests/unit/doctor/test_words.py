"""What a doctor's answers say, where nothing has to be broken for it."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import bypass, doctor
from agent.doctor import plane_checks
from agent.doctor.check import Verdict
from agent.doctor.flow import Step
from agent.model.counted import counted
from tests.support.patient import site_at


def test_a_missing_root_is_asked_for_by_the_name_of_its_option(tmp_path: Path) -> None:
    check = plane_checks.credentials(site_at(tmp_path, "words"))
    assert check.remedy == "give `ztun doctor` the option --root-cert"


def test_a_clock_that_cannot_be_asked_names_the_option_that_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(plane_checks, "TELLS_TIME", bound.getsockname()[1])
        site = site_at(tmp_path, "words")
        site = replace(site, settings=replace(site.settings, xds_address="127.0.0.1:15012"))
        check = plane_checks.clock(site)
    assert check.verdict is Verdict.CANNOT_TELL and "Connection refused" in check.words
    assert "--metrics-address HOST:" in check.remedy


def test_what_may_come_in_between_is_said_once_for_all_stations(capsys: pytest.CaptureFixture[str]) -> None:
    unless = "policy denies it by address and port alone: then it is answered here (DENIED)"
    steps = [Step(f"to_pod to 10.0.0.{n}:80", Verdict.OK, "to the proxy", (unless,)) for n in (1, 2)]
    with pytest.raises(SystemExit):
        doctor.tell(steps, "table")
    table = " ".join(capsys.readouterr().out.split())
    assert table.count(unless) == 1
    assert table.endswith(f"to_pod to 10.0.0.1:80, to_pod to 10.0.0.2:80: unless {unless}")
    with pytest.raises(SystemExit):
        doctor.tell(steps, "json")
    told = json.loads(capsys.readouterr().out)["steps"]
    assert [each["words"] for each in told] == [f"to the proxy, unless {unless}"] * 2


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(n, "packet") for n in (0, 1, 2)] == ["0 packets", "1 packet", "2 packets"]
    assert [counted(n, "policy", "policies") for n in (1, 2)] == ["1 policy", "2 policies"]
    assert bypass.reset_words(1) == "1 socket of the proxy was reset: its client connects anew"
    assert bypass.reset_words(2).startswith("2 sockets of the proxy were reset: their")
