"""A clock that is set, beneath a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.wall_clock import Clock, beneath, built

SAYS = "import time\nfor _ in iter(input, ''): print(time.time(), time.monotonic(), flush=True)"
NEAR_S = 60.0


def test_a_process_has_the_time_that_its_clock_says_at_once_and_monotonic_time_as_it_is(
    tmp_path: Path,
) -> None:
    clock = Clock(tmp_path / "clock")
    command = (sys.executable, "-I", "-c", SAYS)
    with subprocess.Popen(
        command,
        env={**os.environ, **beneath(built(tmp_path), clock)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for ahead_s in (0, 3600, -3600, 0):
            clock.set_ahead(ahead_s)
            process.stdin.write("now\n")
            process.stdin.flush()
            wall_s, since_boot_s = map(float, process.stdout.readline().split())
            assert abs(wall_s - time.time() - ahead_s) < NEAR_S
            assert abs(since_boot_s - time.monotonic()) < NEAR_S
        process.stdin.write("\n")
