"""`--form`: which form of the hot path a run is about, so that no run tests the other one by mistake; and what holds of
all tests: their names are the same in every process, and no property fails because the machine is busy."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from agent import FORM

# Whenever a process forks, grpc ends its threads before and makes them anew after: in the network namespace that the
# thread is in which forks. Tests fork in namespaces of their own, and whatever came to the same process afterwards was
# refused its connections.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("emulated", settings.get_profile("unhurried"), max_examples=20)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="run those marked `long` too, as `scripts/test --all` does"
    )
    parser.addoption(
        "--form", choices=("pure", "compiled"), help="refuse to run unless this form of the hot path is there"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    wanted = session.config.getoption("form")
    if wanted not in (None, FORM.word):
        raise pytest.UsageError(f"--form={wanted}: the tree is {FORM}; scripts/setup makes it what is wanted")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Processes that share a run must know the tests by the same names, and each has loopback addresses of its own."""
    if not config.getoption("long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("long")]
    loopback = sys.modules.get("tests.support.loopback")
    for item in items if loopback is not None else ():
        if loopback.ours("") in item.nodeid:
            raise pytest.UsageError(
                f"{item.nodeid}: another process has another address there; give it an id"
            )


def pytest_report_header() -> str:
    return f"ztun: {FORM}"
