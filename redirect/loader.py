"""Has the programs compiled, loaded and pinned by a process that lives only for that.

`load` runs this module as a process of its own and waits: LLVM's memory and bcc's change of directory end with it.
Everything lands in DIRECTORY (on a bpffs) as map_NAME and prog_NAME, programs last, so that a directory with
all programs is complete.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from redirect import spawn, sys_bpf
from redirect.errors import LoaderError
from redirect.layout import GUARDS, MAPS, PINNED

TIMEOUT_S = 60.0


def is_complete(directory: Path) -> bool:
    """Whether every map and program is pinned there."""
    names = [f"map_{name}" for name in MAPS] + [f"prog_{name}" for name in PINNED]
    return all((directory / name).exists() for name in names)


def load(directory: Path, record: Path, timeout_s: float = TIMEOUT_S) -> None:
    """Compile and pin into the directory. Raises LoaderError, one line, with all that was said in the file `record`.

    What the verifier says of a program is the one text that helps on a kernel that nobody has tried.
    """
    record.unlink(missing_ok=True)
    try:
        spawn.run("redirect.loader", [str(directory.absolute())], timeout_s=timeout_s)
    except spawn.ChildLate as error:
        raise LoaderError(
            f"loading the programs failed: {error.failure}: a machine as slow as that takes a longer --load-timeout-s"
        ) from error
    except spawn.ChildFailed as error:
        words = f"Linux {os.uname().release} {os.uname().machine}\n{error.failure}\n{error.failure.details}"
        try:
            record.write_text(words)
            where = f"{record} has the compiler's and the verifier's words"
        except OSError as full:
            where = f"what compiler and verifier said cannot be kept in {record}: {full.strerror}"
        raise LoaderError(f"loading the programs failed: {error.failure}; {where}") from error


def main() -> None:
    # Only here: importing this module must not cost the compiler.
    from redirect.bcc_backend import compile_programs

    directory = Path(sys.argv[1])
    try:
        fds = compile_programs(directory)
    except LoaderError as error:
        sys.exit(str(error))
    # What is known of pods outlives the pins where guards do, and the next agent finds it (`carry_over.recover`).
    for name in MAPS:
        fd = sys_bpf.obj_get(directory / f"map_{name}")
        for guard in GUARDS:
            sys_bpf.prog_bind_map(fds[guard], fd)
        os.close(fd)
    for name in PINNED:
        path = directory / f"prog_{name}"
        path.unlink(missing_ok=True)
        sys_bpf.obj_pin(fds[name], path)
