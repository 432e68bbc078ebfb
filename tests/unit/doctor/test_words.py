"""What a doctor's answers say, where nothing has to be broken for it."""

from __future__ import annotations

from pathlib import Path

from agent.doctor import plane_checks
from tests.support.patient import site_at


def test_a_missing_root_is_asked_for_by_the_name_of_its_option(tmp_path: Path) -> None:
    check = plane_checks.credentials(site_at(tmp_path, "words"))
    assert check.remedy == "give `ztun doctor` the option --root-cert"
