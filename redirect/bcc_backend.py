"""Compiles the programs with bcc, on a machine without kernel headers. The only importer of bcc.

bcc wants a kernel source tree; ten small files made here are enough (docs/KERNEL.md#header-tree), the same
for every architecture. It changes into that tree, process-wide, and keeps LLVM's memory: hence the
short-lived process around this module. Includes are expanded here, because bcc rewrites map calls only in its
main file.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from redirect import sys_bpf
from redirect.ending import ending
from redirect.errors import LoaderError
from redirect.layout import ENDING, PROGRAMS, SOURCES

DIST_PACKAGES = "/usr/lib/python3/dist-packages"
LICENSE = "GPL"
"""What bcc says of a program that says nothing."""
SCHED_CLS, SK_LOOKUP, ATTACH_SK_LOOKUP = 3, 30, 36
INCLUDE = re.compile(r'^#include "(\w+\.h)"\n', re.MULTILINE)

TYPES = """\
#ifndef _LINUX_TYPES_H
#define _LINUX_TYPES_H
typedef signed char __s8; typedef unsigned char __u8; typedef short __s16; typedef unsigned short __u16;
typedef int __s32; typedef unsigned int __u32; typedef long long __s64; typedef unsigned long long __u64;
typedef __u16 __le16, __be16, __sum16; typedef __u32 __le32, __be32, __wsum; typedef __u64 __le64, __be64;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define __aligned_be64 __be64 __attribute__((aligned(8)))
#define __aligned_le64 __le64 __attribute__((aligned(8)))
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;
typedef __s8 s8; typedef __s16 s16; typedef __s32 s32; typedef __s64 s64;
typedef _Bool bool; typedef unsigned long size_t; typedef long ssize_t; typedef int pid_t;
typedef unsigned long uintptr_t;
#define true 1
#define false 0
#define NULL ((void *)0)
#endif
"""
CLASSIC = {
    **{
        f"BPF_{n}": v
        for n, v in zip(["LD", "LDX", "ST", "STX", "ALU", "JMP", "RET", "MISC"], range(8), strict=True)
    },
    "BPF_W": 0x00,
    "BPF_H": 0x08,
    "BPF_B": 0x10,
    **{f"BPF_{n}": v << 5 for v, n in enumerate(["IMM", "ABS", "IND", "MEM", "LEN", "MSH"])},
    **{
        f"BPF_{n}": v << 4
        for v, n in enumerate(["ADD", "SUB", "MUL", "DIV", "OR", "AND", "LSH", "RSH", "NEG", "MOD", "XOR"])
    },
    **{f"BPF_{n}": v << 4 for v, n in enumerate(["JA", "JEQ", "JGT", "JGE", "JSET"])},
    "BPF_K": 0x00,
    "BPF_X": 0x08,
    "BPF_MAXINSNS": 4096,
}


def import_bcc() -> ModuleType:
    """Debian's bcc, also from a virtual environment; nothing else of dist-packages comes along."""
    try:
        return importlib.import_module("bcc")
    except ImportError:
        pass
    spec = importlib.machinery.PathFinder.find_spec("bcc", [DIST_PACKAGES])
    if spec is None or spec.loader is None:
        raise LoaderError(
            "bcc is not installed: apt-get install python3-bpfcc (the PyPI package bcc is another)"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules["bcc"]
        raise LoaderError(
            f"bcc does not load: {error}; is libbpfcc of the same version installed?"
        ) from error
    return module


def header_files() -> dict[str, str]:
    """The tree bcc compiles against: path -> content."""
    numbers = [min(int(n), 255) for n in re.findall(r"\d+", os.uname().release)[:3]]
    code = (numbers[0] << 16) + (numbers[1] << 8) + numbers[2]
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
        "include/linux/types.h": TYPES,
        "include/linux/bpf_common.h": "".join(
            f"#define {name} {value:#x}\n" for name, value in CLASSIC.items()
        ),
        "include/uapi/linux/bpf.h": "",
        "include/uapi/linux/if_packet.h": "",
        "include/linux/version.h": f"#define LINUX_VERSION_CODE {code}\n"
        "#define KERNEL_VERSION(a,b,c) (((a) << 16) + ((b) << 8) + (c))\n",
        "include/linux/log2.h": "#define roundup_pow_of_two(n) (1UL << (64 - __builtin_clzl((n) - 1)))\n",
        "include/asm/page.h": f"#define PAGE_SHIFT {page.bit_length() - 1}\n#define PAGE_SIZE {page}\n",
        "include/asm/byteorder.h": "",
    }


@contextmanager
def header_tree() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ztun-headers-") as directory:
        for name, content in header_files().items():
            path = Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        yield Path(directory)


def program_text(sources: Path = SOURCES) -> str:
    """All programs as one text, each header expanded where it is first included."""
    seen: set[str] = set()

    def expand(text: str) -> str:
        def once(match: re.Match[str]) -> str:
            name = match[1]
            if name in seen:
                return ""
            seen.add(name)
            return expand((sources / "include" / name).read_text())

        return INCLUDE.sub(once, text)

    return "\n".join(expand((sources / f"{name}.c").read_text()) for name in PROGRAMS)


def compile_programs(pins: Path) -> dict[str, int]:
    """Compile and load all programs, with their maps pinned in `pins`; fds by name. Raises LoaderError."""
    bcc = import_bcc()
    here = os.getcwd()
    with header_tree() as tree:
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        try:
            loaded = bcc.BPF(text=program_text(), cflags=[f'-DPIN="{pins}"', "-w", "-Wno-everything"])
            fds = {name: _load(loaded, name) for name in PROGRAMS}
            for name, other in ENDING.items():
                # What bcc has loaded: with the numbers of the maps in it.
                fds[other] = sys_bpf.load_code(other, ending(loaded.dump_func(name)), LICENSE)
        except Exception as error:
            raise LoaderError(f"the programs do not load: {error}") from error
        finally:
            # bcc changes into its source tree and does not always come back.
            os.chdir(here)
    # The object closes its fds when collected: it must live as long as they are used.
    _KEEP.append(loaded)
    return fds


_KEEP: list[object] = []


def _load(loaded: object, name: str) -> int:
    load = loaded.load_func  # type: ignore[attr-defined]
    if name.startswith("lookup_"):
        return int(load(name, SK_LOOKUP, attach_type=ATTACH_SK_LOOKUP).fd)
    return int(load(name, SCHED_CLS).fd)
