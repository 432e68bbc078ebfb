"""What ztun says where a kernel lacks a piece: booted without it, the start must name it and what to do.

In the guest (`python -m tests.kernels.lacks`) it makes what does not depend on pods, and tells what came of it.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from redirect.errors import RedirectError
from redirect.reconcile import Redirection


@dataclass(frozen=True, slots=True)
class Lack:
    """`says`: words of the refusal; `without` and `arguments` as of `machine.Boot`."""

    name: str
    says: tuple[str, ...]
    without: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


LACKS = (
    Lack("no IPv6", ("boot without ipv6.disable=1",), arguments=("ipv6.disable=1",)),
    Lack("no veth", ("modprobe veth",), without=("veth",)),
    Lack("no tcp_diag", ("modprobe tcp_diag",), without=("tcp_diag",)),
    Lack(
        "no cls_bpf", ("modprobe -a sch_ingress cls_bpf",), without=("sch_ingress", "cls_bpf", "act_mirred")
    ),
)
"""On a kernel without tcx, where clsact is needed."""
COMMAND = (".venv/bin/python", "-m", "tests.kernels.lacks")


def main() -> int:
    run_dir = Path(tempfile.mkdtemp())
    try:
        Redirection("lack", run_dir).prepare()
    except RedirectError as error:
        sys.stdout.write(f"refused: {error}\n")
        return 0
    sys.stdout.write("accepted\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
