"""Keeps what the methods of our dataclasses compile to, for `agent.dataclass_code`.

`python -I agent/dataclass_keeping.py` loads every module of ours and writes a file for each that has dataclasses, as
scripts/setup and the image do once the modules are where they stay. By its path, for `agent` makes dataclasses as soon
as it is loaded.
"""

from __future__ import annotations

import builtins
import importlib
import marshal
import os
import pkgutil
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent", "redirect")
NOT_OF_PIP = "bcc"
"""Comes from Debian: where modules are installed it may be missing, and what needs it is passed over."""


class Recorder:
    """In place of `exec` in `dataclasses`, while every module is loaded."""

    def __init__(self) -> None:
        self.codes: dict[str, dict[str, object]] = {}
        """What each text of a module became, by the module's name."""

    def __call__(self, text: str, scope: dict[str, Any], names: dict[str, Any]) -> None:
        code = compile(text, "<string>", "exec", dont_inherit=True)
        self.codes.setdefault(scope["__name__"], {})[text] = code
        builtins.exec(code, scope, names)


def keep(directory: str, codes: dict[str, dict[str, object]]) -> None:
    """A file for each module, in place of the one of before. Raises OSError."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    for module, of_module in codes.items():
        draft = Path(f"{directory}.{os.getpid()}")
        draft.write_bytes(MAGIC_NUMBER + marshal.dumps(of_module))
        draft.replace(f"{directory}{module}")


def load_everything() -> None:
    """Each module of ours. Raises ImportError."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if error.name != NOT_OF_PIP:
                    raise


def main() -> None:
    sys.path.insert(0, str(ROOT))
    recorder = Recorder()
    importlib.import_module("dataclasses").exec = recorder  # type: ignore[attr-defined]
    from agent import dataclass_code  # only here: what `agent` makes is to be kept as well

    load_everything()
    keep(dataclass_code.DIRECTORY, {n: c for n, c in recorder.codes.items() if n.split(".")[0] in PACKAGES})


if __name__ == "__main__":
    main()
