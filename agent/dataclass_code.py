"""Methods of dataclasses, compiled when ztun is installed and not at each start.

`dataclasses` writes the methods of each class as text and has it compiled: of what a start does nothing else takes as
long. What the texts of a module become is kept in a file beside the bytecode of ours, and trusted as that is
(`agent.dataclass_keeping` makes it). Whatever is not there is compiled as ever: without the file, for another Python,
or where a class has changed. Standard library only: `agent` has this in force before it loads anything else.
"""

from __future__ import annotations

import builtins
import dataclasses
import marshal
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType
from typing import Any

DIRECTORY = f"{Path(__file__).parent}/__pycache__/dataclasses.{sys.implementation.cache_tag}/"

Codes = dict[str, CodeType]
"""What texts become."""


class Kept:
    """In place of `exec` in `dataclasses`. Holds what belongs to the module that is being loaded, and no other."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._directory = directory
        self._module = ""
        self._codes: Codes = {}

    def __call__(self, text: str, scope: dict[str, Any], names: dict[str, Any]) -> None:
        module: str = scope.get("__name__", "")
        if module != self._module:
            self._module, self._codes = module, kept(self._directory, module)
        builtins.exec(self._codes.get(text, text), scope, names)


def kept(directory: str, module: str) -> Codes:
    """Of a module; none where no file of this Python's can be read."""
    try:
        with open(f"{directory}{module}", "rb", buffering=0) as file:
            content = file.read()
    except OSError:
        return {}
    if content[: len(MAGIC_NUMBER)] != MAGIC_NUMBER:
        return {}
    codes: Codes = marshal.loads(memoryview(content)[len(MAGIC_NUMBER) :])
    return codes


def put_in_force() -> None:
    """From here on. Not where the files are being made: then their maker is there already."""
    # A name that a module asks for is looked for in it before it is in `builtins`.
    vars(dataclasses).setdefault("exec", Kept())
