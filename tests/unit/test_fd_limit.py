"""What a limit of descriptors has room for, and what is said where it is too low."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent import fd_limit


@pytest.mark.parametrize("connections", [16, 1000, 50_000, 10**6])
def test_what_is_asked_for_has_room(connections: int) -> None:
    assert fd_limit.connections_within(fd_limit.descriptors_for(connections)) >= connections


@pytest.mark.parametrize("limit", [512, 1024, 20_000, 1 << 20])
def test_connections_handshakes_and_reserve_fit_into_a_limit(limit: int) -> None:
    connections = fd_limit.connections_within(limit)
    assert 2 * connections + connections // 4 + fd_limit.OWN + fd_limit.reserve(limit) <= limit


def under(limit: int, connections: int, more: str = "") -> subprocess.CompletedProcess[str]:
    program = (
        "import logging, resource, sys; from agent.fd_limit import fitted; logging.basicConfig();"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); print(fitted({connections}{more}))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=os.getcwd())


def test_a_limit_that_is_too_low_lowers_the_connections_and_says_so() -> None:
    ran = under(1024, 50_000)
    assert ran.stdout == f"{fd_limit.connections_within(1024)}\n"
    assert "--max-connections 50000 takes 112916 files" in ran.stderr and "LimitNOFILE=" in ran.stderr
    assert under(1024, 200).stderr == ""


def test_a_number_that_nobody_asked_for_is_lowered_without_a_warning() -> None:
    quiet = under(1024, 50_000, ", is_default=True")
    assert quiet.stdout == f"{fd_limit.connections_within(1024)}\n" and quiet.stderr == ""


def test_a_limit_that_is_of_no_use_is_refused() -> None:
    ran = under(200, 50_000)
    assert ran.returncode and "TooFewFiles: a process may open 200 files" in ran.stderr
    assert "LimitNOFILE=" in ran.stderr
