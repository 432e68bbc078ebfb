"""Checks of the kernel: may this process use it as ztun does, has it what is needed, is anything shut."""

from __future__ import annotations

import gzip
import importlib.machinery
import importlib.util
import os
import platform
import resource
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site
from redirect import features, map_memory, rights
from redirect.bcc_backend import DIST_PACKAGES
from redirect.errors import KernelTooOld

IN_A_CLUSTER = {"SYS_CHROOT": 18, "SYS_PTRACE": 19}
"""What it takes to find pods by their processes, and the mounts of init, from inside a container."""
LOCKDOWN = Path("/sys/kernel/security/lockdown")
JIT = Path("/proc/sys/net/core/bpf_jit_enable")
NEEDED = (
    *("BPF_SYSCALL", "INET_DIAG", "INET_TCP_DIAG", "IPV6", "IP_MULTIPLE_TABLES", "IPV6_MULTIPLE_TABLES"),
    *("NET_NS", "VETH"),
)
WITHOUT_TCX = ("NET_CLS_BPF", "NET_SCH_INGRESS")
"""What the older way to attach programs needs, where the kernel has not NET_XGRESS."""
WISHED = {"BPF_JIT": "programs are slow", "INET_DIAG_DESTROY": "connections of a pod that goes only time out"}

PRIVILEGES = Subject("privileges", "user and capabilities of this process")
FEATURES = Subject("kernel features", "the kernel, asked for what ztun uses")
CONFIG = Subject("kernel config", "/proc/config.gz, /boot/config-VERSION")
LOCKED_DOWN = Subject("lockdown", str(LOCKDOWN))
COMPILER = Subject("compiler", "the Python module bcc")
COMPILED = Subject("program speed", "sysctl net.core.bpf_jit_enable")
LOCKED_MEMORY = Subject("locked memory", "a map larger than RLIMIT_MEMLOCK, made for a moment")


def privileges(_: Site) -> Check:
    if os.geteuid() != 0:
        return PRIVILEGES.failed("this is not root: most of the other checks cannot tell", "run it as root")
    effective = rights.effective()
    if missing := rights.missing(effective):
        return PRIVILEGES.failed(f"root, but without {', '.join(missing)}", rights.REMEDY)
    less = [f"CAP_{name}" for name, bit in IN_A_CLUSTER.items() if not effective >> bit & 1]
    if less:
        return PRIVILEGES.warning(
            f"root, but without {', '.join(less)}: pods are not found by their processes, nor mounts of init",
            rights.REMEDY,
        )
    return PRIVILEGES.ok("root, with all that is needed")


def kernel_features(_: Site) -> Check:
    if os.geteuid() != 0:
        return FEATURES.cannot_tell("only root may ask the kernel")
    found = features.probe()
    try:
        # Room for maps has a check of its own.
        replace(found, has_map_memory=True).require()
    except KernelTooOld as error:
        return FEATURES.failed(
            str(error), "use a kernel that has it (docs/KERNEL.md); 5.10 and newer do, as built by Debian"
        )
    if found.limits:
        return FEATURES.warning("; ".join(found.limits), "use a kernel that was built with it")
    way = "tcx" if found.has_tcx else "clsact filters, as there is no tcx"
    return FEATURES.ok(f"Linux {platform.release()} has all; programs are attached by {way}")


def kernel_config(_: Site) -> Check:
    places = [Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")]
    path = next((path for path in places if path.exists()), None)
    if path is None:
        return CONFIG.cannot_tell(
            "this kernel does not show how it was built; `kernel features` has asked it instead"
        )
    raw = path.read_bytes()
    return judge_config(path, (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines())


def judge_config(path: Path, lines: Iterable[str]) -> Check:
    there = {line.removeprefix("CONFIG_").partition("=")[0] for line in lines if line.endswith(("=y", "=m"))}
    needed = NEEDED if "NET_XGRESS" in there else (*NEEDED, *WITHOUT_TCX)
    missing = [name for name in needed if name not in there]
    remedy = "use a kernel that was built with it"
    if missing:
        return CONFIG.failed(f"{path} lacks {', '.join(f'CONFIG_{name}' for name in missing)}", remedy)
    wished = [f"CONFIG_{name} ({effect})" for name, effect in WISHED.items() if name not in there]
    if wished:
        return CONFIG.warning(f"{path} lacks {', '.join(wished)}", remedy)
    return CONFIG.ok(f"{path} has all of it")


def lockdown(_: Site) -> Check:
    if not LOCKDOWN.exists():
        return LOCKED_DOWN.ok("none: this kernel has no lockdown, or securityfs is not mounted")
    text = LOCKDOWN.read_text().strip()
    mode = text.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        return LOCKED_DOWN.warning(
            "confidentiality: programs of ztun read no memory of the kernel and load all the same, but whatever traces "
            "it does not, and no one has tried ztun so",
            "boot with lockdown=integrity, or without",
        )
    return LOCKED_DOWN.ok(f"{mode or text}: in nobody's way")


def compiler(site: Site) -> Check:
    if site.pins.is_complete:
        return COMPILER.ok("not needed: the programs of this version are loaded")
    debians = importlib.machinery.PathFinder.find_spec("bcc", [DIST_PACKAGES])
    if importlib.util.find_spec("bcc") is not None or debians is not None:
        return COMPILER.ok("there, for the first start of this version")
    return COMPILER.failed(
        "bcc is not installed, and the programs of this version are not loaded yet: no agent starts",
        "install it",
        "apt-get install -y python3-bpfcc",
    )


def program_speed(_: Site) -> Check:
    if not JIT.exists():
        return COMPILED.cannot_tell("only the first network namespace of the machine shows it")
    if JIT.read_text().strip() == "0":
        return COMPILED.warning(
            "the kernel interprets programs, several times slower than compiled",
            "have it compile them",
            "sysctl -w net.core.bpf_jit_enable=1",
        )
    return COMPILED.ok("the kernel compiles programs")


def locked_memory(_: Site) -> Check:
    if os.geteuid() != 0:
        return LOCKED_MEMORY.cannot_tell("only root may make one")
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    if not map_memory.ensure():
        return LOCKED_MEMORY.failed(
            f"maps count against RLIMIT_MEMLOCK here, before Linux 5.11, which is {limit} and cannot be raised",
            "raise it where the agent is started: LimitMEMLOCK=infinity, --ulimit memlock=-1 of a container; "
            "or give it CAP_SYS_RESOURCE",
            "ulimit -l unlimited",
        )
    return LOCKED_MEMORY.ok(f"maps can be made (RLIMIT_MEMLOCK is {limit})")


CHECKS = (
    Examination(PRIVILEGES, privileges),
    Examination(FEATURES, kernel_features),
    Examination(CONFIG, kernel_config),
    Examination(LOCKED_DOWN, lockdown),
    Examination(COMPILED, program_speed),
    Examination(LOCKED_MEMORY, locked_memory),
    Examination(COMPILER, compiler),
)
