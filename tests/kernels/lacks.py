"""What ztun makes of a kernel that lacks a piece: it names the piece and what to do, or does without and says so.

Some pieces are missing from the boot on, others are taken away in a machine that is up; those of one boot are asked in
their order. In the guest (`python -m tests.kernels.lacks`) it makes what does not depend on pods, captures one and lets
it go, and tells what came of it: what is pinned stays for the next one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from redirect.errors import RedirectError
from redirect.reconcile import Redirection
from tests.kernels.foundation import captured
from tests.kernels.initramfs import KEPT
from tests.kernels.patience import LOAD_TIMEOUT_S, factor

PYTHON = ".venv/bin/python"
RUN_DIR = Path("/run/ztun-lacks")
KERNEL = "6.1"
"""Of most: it has no tcx."""


@dataclass(frozen=True, slots=True)
class Start:
    """A boot: of which kernel, without which modules, with which more words for it."""

    kernel: str = KERNEL
    without: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lack:
    """`says`: words of the answer, which begins with `refused` or `accepted`; `before`: done in the machine's shell;
    `rights`: of setpriv, for who asks."""

    name: str
    says: tuple[str, ...]
    start: Start = Start()
    before: str = ""
    rights: str = ""

    @property
    def key(self) -> str:
        """For files."""
        return "".join(each if each.isalnum() else "-" for each in self.name)

    @property
    def command(self) -> tuple[str, ...]:
        """In the guest."""
        setpriv = f"setpriv --inh-caps=-all --bounding-set={self.rights} " if self.rights else ""
        return "sh", "-c", f"{self.before or ':'}; exec {setpriv}{PYTHON} -m tests.kernels.lacks"

    def is_right(self, status: int | None, text: str) -> bool:
        return status == 0 and all(words in text for words in self.says)


CLOSED = Start(arguments=("ipv6.disable_ipv6=1", "lockdown=confidentiality"))
"""Devices have no IPv6 until somebody switches it on for one; nobody reads kernel memory, root neither."""
INTEGRITY = Start("6.12", without=("nf_tables",), arguments=("lockdown=integrity",))
LACKS = (
    Lack("no IPv6", ("refused", "boot without ipv6.disable=1"), Start(arguments=("ipv6.disable=1",))),
    Lack("no veth", ("refused", "modprobe veth"), before="rmmod veth"),
    Lack("no tcp_diag", ("refused", "modprobe tcp_diag"), before=f"insmod {KEPT}/veth.ko; rmmod tcp_diag"),
    Lack(
        "no cls_bpf, no tcx",
        ("refused", "modprobe -a sch_ingress cls_bpf"),
        before=f"insmod {KEPT}/tcp_diag.ko; rmmod cls_bpf sch_ingress",
    ),
    Lack(
        "no CAP_SYS_RESOURCE where maps count against RLIMIT_MEMLOCK",
        ("refused", "CAP_SYS_RESOURCE", "LimitMEMLOCK=infinity"),
        Start("5.10"),
        rights="-sys_resource",
    ),
    Lack("no CAP_BPF, no CAP_SYS_ADMIN", ("refused", "CAP_BPF"), CLOSED, rights="-bpf,-sys_admin"),
    Lack("no CAP_NET_ADMIN", ("refused", "CAP_NET_ADMIN"), CLOSED, rights="-net_admin"),
    Lack(
        "no room for network namespaces",
        ("refused", "/proc/sys/user/max_net_namespaces"),
        CLOSED,
        before="echo 1 > /proc/sys/user/max_net_namespaces",
    ),
    Lack(
        "IPv6 off on devices, lockdown, no BTF",
        ("accepted", "no tcx"),
        CLOSED,
        before="echo 100 > /proc/sys/user/max_net_namespaces; mount -t tmpfs none /sys/kernel/btf",
    ),
    Lack(
        "no bpffs, no control groups",
        ("accepted", "no tcx"),
        CLOSED,
        before="umount /sys/fs/bpf /sys/fs/cgroup",
    ),
    Lack("no nf_tables, lockdown=integrity", ("accepted", "as it should be"), INTEGRITY),
)


def starts(lacks: Iterable[Lack] = LACKS) -> Mapping[Start, tuple[Lack, ...]]:
    """Those of each boot."""
    return {start: tuple(group) for start, group in groupby(lacks, lambda each: each.start)}


def main() -> int:
    redirection = Redirection("lack", RUN_DIR, load_timeout_s=LOAD_TIMEOUT_S * factor())
    try:
        prepared = redirection.prepare()
    except (RedirectError, OSError) as error:
        sys.stdout.write(f"refused: {error}\n")
        return 0
    wrong = captured(redirection)
    sys.stdout.write(f"a pod is captured and let go: {'; '.join(wrong) or 'as it should be'}\n")
    sys.stdout.write(f"accepted, limited: {'; '.join(prepared.limits) or 'nothing'}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
