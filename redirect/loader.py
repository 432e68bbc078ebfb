"""Has the programs compiled, loaded and pinned by a process that lives only for that.

`load` starts `python -m redirect.loader DIRECTORY` and waits: LLVM's memory and bcc's change of directory end with
it. Everything lands in DIRECTORY (on a bpffs) as map_NAME and prog_NAME, programs last, so that a directory with
all programs is complete.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from redirect import sys_bpf
from redirect.errors import LoaderError
from redirect.layout import MAPS, PROGRAMS

TIMEOUT_S = 60.0


def is_complete(directory: Path) -> bool:
    """Whether every map and program is pinned there."""
    names = [f"map_{name}" for name in MAPS] + [f"prog_{name}" for name in PROGRAMS]
    return all((directory / name).exists() for name in names)


def load(directory: Path) -> None:
    """Compile and pin into the directory. Raises LoaderError, one line."""
    command = [sys.executable, "-m", "redirect.loader", str(directory)]
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=root, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoaderError(f"compiling the programs took more than {TIMEOUT_S:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise LoaderError(f"loading the programs failed: {lines[-1] if lines else f'exit {done.returncode}'}")


def main() -> None:
    # Only here: importing this module must not cost the compiler.
    from redirect.bcc_backend import compile_programs

    directory = Path(sys.argv[1])
    try:
        fds = compile_programs(directory)
    except LoaderError as error:
        sys.exit(str(error))
    for name in PROGRAMS:
        path = directory / f"prog_{name}"
        path.unlink(missing_ok=True)
        sys_bpf.obj_pin(fds[name], path)


if __name__ == "__main__":
    main()
