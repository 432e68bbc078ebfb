"""Every fault by its name."""

from __future__ import annotations

from tests.chaos import clocks, kernel, network, plane, processes, resources
from tests.chaos.fault import Fault

FAULTS: dict[str, Fault] = {
    **processes.FAULTS,
    **network.FAULTS,
    **plane.FAULTS,
    **resources.FAULTS,
    **kernel.FAULTS,
    **clocks.FAULTS,
}
