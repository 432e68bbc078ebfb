"""Which form of the hot path runs: the sources, or the extensions that mypyc made of them; and that these agree.

Extensions lie beside their sources, and Python prefers them. The build leaves a stamp with a digest of everything that
it read, and `agent` compares before a process loads anything else of ours: what was made of other sources, for another
Python or in part only is refused, and never falls back in silence. Standard library only, as the build uses this too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

STAMP = "compiled.json"
LIBRARY = "hot__mypyc"
"""The extension that holds the code of all; those beside the sources only lead to it."""
SUFFIX = EXTENSION_SUFFIXES[0]
"""Of extensions for this Python and machine, as `.cpython-311-x86_64-linux-gnu.so`."""
REMEDY = "`scripts/setup --compiled` builds them anew, `scripts/setup` removes them; a wheel is to be installed again"


class FormError(Exception):
    """Extensions must not run; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Form:
    """What runs. `modules`: dotted names of those that are compiled."""

    modules: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return "compiled" if self.modules else "pure"

    @property
    def brief(self) -> str:
        """`pure`, or `compiled:52`."""
        return f"{self.word}:{len(self.modules)}" if self.modules else self.word

    def __str__(self) -> str:
        return f"compiled, {len(self.modules)} modules" if self.modules else "pure Python"


def digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def write_stamp(package: Path, modules: list[str], sources: dict[str, str]) -> None:
    """Say what the extensions of a package are made of. `sources`: digests by paths from beside the package."""
    stamp = {"suffix": SUFFIX, "modules": modules, "sources": sources}
    (package / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")


def observe(package: Path) -> Form:
    """The form of what lies in the directory of a package. Raises FormError where it is none."""
    root = package.parent
    try:
        stamp = json.loads((package / STAMP).read_bytes())
    except FileNotFoundError:
        if stray := next(package.glob(f"{LIBRARY}.*"), None):
            raise FormError(f"{stray} lies there without its {STAMP}; {REMEDY}") from None
        return Form()
    if stamp["suffix"] != SUFFIX:
        raise FormError(f"modules in {package} are compiled for *{stamp['suffix']}, not *{SUFFIX}; {REMEDY}")
    for module in (f"{package.name}.{LIBRARY}", *stamp["modules"]):
        extension = root / (module.replace(".", "/") + SUFFIX)
        if not extension.exists():
            raise FormError(f"{module} is compiled, but {extension} is missing; {REMEDY}")
    for name, expected in stamp["sources"].items():
        path = root / name
        if not path.exists() or digest(path) != expected:
            raise FormError(f"modules are compiled from another {path}; {REMEDY}")
    return Form(tuple(stamp["modules"]))
