"""The programs with a place in them changed, loaded by the loader as it is, in a copy of the two folders it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from redirect import loader
from redirect.layout import SOURCES

TIMEOUT_S = float(os.environ.get("ZTUN_LOAD_TIMEOUT_S", loader.TIMEOUT_S))
"""A machine that is emulated takes long to compile."""
LOAD = """
import sys
from pathlib import Path
from redirect import loader
from redirect.errors import LoaderError
try:
    loader.load(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
except LoaderError as error:
    sys.exit(str(error))
"""


def load(tree: Path, file: str, old: str, new: str, *, pins: Path, record: Path) -> str:
    """Loads with `new` for every `old` in a file of bpf/, from a copy in `tree`; what went wrong, empty if nothing."""
    shutil.copytree(SOURCES, tree / "bpf")
    shutil.copytree(
        SOURCES.parent / "redirect", tree / "redirect", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = tree / "bpf" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(pins), str(record), str(TIMEOUT_S)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip()
