"""On each submission one kernel that is not this machine's: what ztun makes before any pod, on Debian's 6.1, in QEMU.

6.1 has no tcx: there clsact is what runs. Everything else of the matrix is `scripts/kernels`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernels import machine, suites
from tests.kernels.__main__ import PROGRAMS, TREE
from tests.kernels.machine import Boot, Machine
from tests.kernels.packages import NotToBeHad, missing
from tests.kernels.store import Store
from tests.kernels.table import kernels

KERNEL = "6.1"
TIMEOUT_S = 600.0
"""For a busy machine."""


@pytest.mark.timeout(1200)  # kernel and emulator may be on their way
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose files the root file system is made of")
def test_what_stands_below_the_pods_stands_on_another_kernel(tmp_path: Path) -> None:
    # Asked here: in a whole run it is installed while other tests run.
    if absent := missing(list(PROGRAMS)):
        pytest.skip(f"needs {', '.join(absent)}: scripts/kernels installs what has it")
    store = Store()
    try:
        kept, root = store.kernel(kernels()[KERNEL]), store.root()
    except NotToBeHad as error:
        pytest.skip(f"no kernel {KERNEL} to be had: {error}")
    boot, results = Boot(kept.kernel, kept.initramfs(tmp_path / "initramfs")), tmp_path / "results"
    commands = suites.commands("/results", ["start"])
    ran = machine.run(Machine(root, TREE, cores=1, memory_mb=1024), boot, commands, results, TIMEOUT_S)
    assert ran.release == kept.release, ran.console
    result = suites.read("start", ran.outcomes["start"], results, f"{ran.seconds:g} s")
    assert (result.faults, ran.warnings) == ((), ()), ran.outcomes["start"].log + ran.console
    assert "no tcx (Linux 6.6): programs are clsact filters" in ran.outcomes["start"].log
