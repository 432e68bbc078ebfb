"""`--form`: which form of the hot path a run is about, so that no run tests the other one by mistake; and
what holds of every property test: none fails because the machine is busy."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from agent import FORM

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--form", choices=("pure", "compiled"), help="refuse to run unless this form of the hot path is there"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    wanted = session.config.getoption("form")
    if wanted not in (None, FORM.word):
        raise pytest.UsageError(f"--form={wanted}: the tree is {FORM}; scripts/setup makes it what is wanted")


def pytest_report_header() -> str:
    return f"ztun: {FORM}"
