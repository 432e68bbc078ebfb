"""How long the suites wait: so many times what a quiet machine that emulates needs (`--patience`)."""

from __future__ import annotations

import os

PATIENCE = "ZTUN_KERNELS_PATIENCE"
LOAD_TIMEOUT_S = 600.0


def environment(factor: float) -> tuple[tuple[str, str], ...]:
    """What tells the suites, here or in a machine."""
    return (PATIENCE, f"{factor:g}"), ("ZTUN_LOAD_TIMEOUT_S", f"{LOAD_TIMEOUT_S * factor:g}")


def factor() -> float:
    """What this process was told; 1 where nobody did."""
    return float(os.environ.get(PATIENCE, "1"))
