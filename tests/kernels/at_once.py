"""A plugin of pytest: what fails is written when it does, with all that is known of it.

pytest keeps that for its end, which a machine that is emulated may not come to: what it had found by then was lost.
"""

from __future__ import annotations

import pytest

SIGN = "FAILED "
"""At the beginning of a line, before the name of the test."""


class AtOnce:
    """`terminal`: where the rest of it is written, too."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            # The dots are not in a line of their own.
            self._terminal.write_line("")
            self._terminal.write_line(f"{SIGN}{report.nodeid}")
            self._terminal.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """When there is a terminal."""
    config.pluginmanager.register(AtOnce(config.pluginmanager.get_plugin("terminalreporter")))
