"""What the control plane counts of those it serves."""

from __future__ import annotations

from agent.controlplane.serve.metrics import samples
from agent.controlplane.serve.status_value import NackReport, Status
from agent.controlplane.translate.resources import ADDRESS_TYPE
from agent.telemetry import families


def test_no_node_can_make_labels_of_its_own_by_what_it_refuses() -> None:
    nacks = [NackReport("n1", f"invented/{number}", ("a", "b"), "no") for number in range(50)]
    status = Status(nacks=(NackReport("n1", ADDRESS_TYPE, ("x",), "no"), *nacks))
    counted = {labels: count for family, labels, count in samples(status) if family is families.PLANE_NACKS}
    assert counted == {("n1", ADDRESS_TYPE): 1, ("n1", "other"): 100}
