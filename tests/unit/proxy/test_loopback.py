"""Test processes that run at once do not take each other's addresses."""

from __future__ import annotations

import subprocess
import sys

from tests.support.loopback import ours


def test_every_process_has_addresses_of_its_own() -> None:
    code = "from tests.support.loopback import ours; print(ours('2.1')); input()"
    seen = [ours("2.1")]
    others = []
    try:
        for _ in range(3):
            other = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            others.append(other)
            assert other.stdout is not None
            seen.append(other.stdout.readline().strip())
    finally:
        for other in others:
            other.communicate("\n", timeout=20)
    assert len(set(seen)) == len(seen) and all(address.startswith("127.") for address in seen)
