"""How a bench of one subject ends: its table, the figures in a file, what falls short, and the exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any


def conclude(
    table: str,
    figures: dict[str, Any],
    missed: Sequence[str],
    load: float,
    options: argparse.Namespace,
    tell: Callable[[str], None],
) -> int:
    """`load`: of the machine before it began; `options`: its `json` and `check`. The exit status."""
    sys.stdout.write(f"{table}\nload before: {load:.1f}, {os.cpu_count()} cores\n")
    if options.json:
        options.json.write_text(json.dumps(figures | {"load_before": load}, indent=1) + "\n")
    for line in missed:
        tell(f"target missed: {line}")
    return 1 if options.check and missed else 0
