"""What setuptools runs from the top of the tree, called by `backend`: everything is in setup.cfg but the extensions."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

PACKAGE = Path("agent")
spec = importlib.util.spec_from_file_location("form", PACKAGE / "form.py")
assert spec is not None and spec.loader is not None
form = importlib.util.module_from_spec(spec)
sys.modules["form"] = form  # dataclasses look there
spec.loader.exec_module(form)


def listed() -> list[Path]:
    """The modules to compile, as the one list of them says: [mypyc] in setup.cfg."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    found: dict[str, set[Path]] = {"modules": set(), "except": set()}
    for key, paths in found.items():
        for pattern in config["mypyc"][key].split():
            matches = {path for path in Path().glob(pattern) if path.name != "__init__.py"}
            if not matches:
                raise SystemExit(f"setup.cfg: [mypyc] {key}: nothing matches {pattern}")
            paths |= matches
    return sorted(found["modules"] - found["except"])


def imported(path: Path) -> Iterator[Path]:
    """Modules of ours that a file names: constants and layouts of theirs are compiled in."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                source = Path(*name.split(".")).with_suffix(".py")
                if source.parts[0] == PACKAGE.name and source.exists():
                    yield source


def read_by(modules: list[Path]) -> set[Path]:
    """Every source of ours that the compiler reads for these."""
    seen: set[Path] = set()
    due = list(modules)
    while due:
        path = due.pop()
        if path not in seen:
            seen.add(path)
            due += imported(path)
    return seen


class Stamped(build_ext):
    """Builds the extensions and leaves beside them what they were made of."""

    modules: list[Path]
    sources: dict[str, str]

    def run(self) -> None:
        if self.inplace:
            remove_extensions()
        super().run()
        root = Path() if self.inplace else Path(self.build_lib)
        if not self.inplace:
            # The directory may hold those of a build before, with another list.
            for left in set(root.rglob(f"*{form.SUFFIX}")) - set(map(Path, self.get_outputs())):
                left.unlink()
        names = [".".join(path.with_suffix("").parts) for path in self.modules]
        form.write_stamp(root / PACKAGE, names, self.sources)

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), str(Path(self.build_lib) / PACKAGE / form.STAMP)]


class WithPackaging(sdist):
    """Else nothing could be built of a source distribution."""

    def add_defaults(self) -> None:
        super().add_defaults()
        self.filelist.extend(str(path) for path in Path("scripts/packaging").glob("*.py"))


def remove_extensions() -> None:
    # The stamp last: without it what is left is refused.
    for path in (*PACKAGE.rglob(f"*{form.SUFFIX}"), PACKAGE / form.STAMP):
        path.unlink(missing_ok=True)


def extensions() -> list[Extension]:
    from mypyc.build import mypycify  # only here: a pure build has no compiler

    Stamped.modules = listed()
    # Before they are compiled: what is edited meanwhile is found out.
    Stamped.sources = {str(path): form.digest(path) for path in sorted(read_by(Stamped.modules))}
    paths = list(map(str, Stamped.modules))
    made = mypycify(
        ["--config-file=setup.cfg", *paths],
        group_name=f"{PACKAGE.name}.{form.LIBRARY.removesuffix('__mypyc')}",
        opt_level=os.environ.get("MYPYC_OPT_LEVEL", "3"),  # 0: soon built, for whoever looks for a mistake
    )
    assert isinstance(made, list)
    for extension in made:
        # Python's own flags have -Wall: what gcc looks for by it takes it four times as long as all the rest, in one
        # file of 100 MB that nobody wrote.
        extension.extra_compile_args.append("-Wno-all")
    return made


if os.environ.get("ZTUN_BUILD_COMPILED"):
    setup(ext_modules=extensions(), cmdclass={"build_ext": Stamped, "sdist": WithPackaging})
else:
    setup(cmdclass={"sdist": WithPackaging})
