"""Sources or extensions: what runs is known, and extensions that do not belong to their sources run never."""

from __future__ import annotations

import ast
import configparser
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path

import pytest

from agent import FORM
from agent.form import LIBRARY, STAMP, SUFFIX, Form, FormError, digest, observe, write_stamp

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What a build leaves: two modules, one of which is compiled, with the stamp."""
    package = tmp_path / "agent"
    package.mkdir()
    for name in ("hot.py", "cold.py", f"hot{SUFFIX}", f"{LIBRARY}{SUFFIX}"):
        (package / name).write_text(name)
    sources = {f"agent/{name}": digest(package / name) for name in ("hot.py", "cold.py")}
    write_stamp(package, ["agent.hot"], sources)
    return package


def test_the_form_is_what_lies_there(package: Path, tmp_path: Path) -> None:
    assert observe(package) == Form(("agent.hot",))
    (tmp_path / "pure").mkdir()
    assert observe(tmp_path / "pure") == Form()
    assert [(form.word, form.brief, str(form)) for form in (observe(package), Form())] == [
        ("compiled", "compiled:1", "compiled, 1 modules"),
        ("pure", "pure", "pure Python"),
    ]


def other_python(package: Path) -> None:
    stamp = package / STAMP
    stamp.write_text(stamp.read_text().replace(SUFFIX, ".cpython-399-any.so"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda package: (package / "hot.py").write_text("newer"), "/hot.py"),
        (lambda package: (package / "cold.py").write_text("newer"), "/cold.py"),
        (lambda package: (package / "hot.py").unlink(), "/hot.py"),
        (lambda package: (package / f"hot{SUFFIX}").unlink(), f"hot{SUFFIX} is missing"),
        (lambda package: (package / f"{LIBRARY}{SUFFIX}").unlink(), f"{LIBRARY}{SUFFIX} is missing"),
        (lambda package: (package / STAMP).unlink(), f"without its {STAMP}"),
        (other_python, f"compiled for *.cpython-399-any.so, not *{SUFFIX}"),
    ],
)
def test_extensions_that_do_not_belong_there_are_refused(
    package: Path, change: Callable[[Path], object], says: str
) -> None:
    change(package)
    with pytest.raises(FormError) as refused:
        observe(package)
    assert says in str(refused.value) and "`scripts/setup --compiled`" in str(refused.value)


def test_no_process_starts_with_such_extensions(tmp_path: Path) -> None:
    """One that came without a stamp, or in the compiled form a source that was edited."""
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "redirect", tmp_path / "redirect")
    if FORM.modules:
        culprit = tmp_path / "agent" / "net" / "loop.py"
        culprit.write_text(culprit.read_text() + "\n")
    else:
        culprit = tmp_path / "agent" / f"{LIBRARY}{SUFFIX}"
        culprit.touch()
    for command in (["-m", "agent", "--version"], ["-I", "redirect/child.py", "agent.worker", "-1"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            done.stderr.startswith("ztun: ") and str(culprit) in done.stderr and "\n" not in done.stderr[:-1]
        )


def listed() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found, excepted = (
        {path for pattern in config["mypyc"][key].split() for path in ROOT.glob(pattern)}
        for key in ("modules", "except")
    )
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found - excepted]
    return sorted(name for name in names if not name.endswith("__init__"))


def test_every_listed_module_runs_in_the_form_that_is_told() -> None:
    """A module that is no longer compiled, or that Python takes from its source all the same."""
    assert listed(), "the list of setup.cfg names modules"
    assert sorted(FORM.modules) in ([], listed())
    kind = ExtensionFileLoader if FORM.modules else SourceFileLoader
    others = [
        name
        for name in listed()
        if not isinstance(importlib.import_module(name).__loader__, kind)  # what runs in this very process
    ]
    assert not others, f"not {FORM.word}: {others}"


def derived_from_compiled(path: Path) -> Iterator[str]:
    """Classes of a module, each with the base that is of a module on the list."""
    tree = ast.parse(path.read_text())
    origins = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in ast.walk(tree):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            name = base.value if isinstance(base, ast.Subscript) else base
            module, original = origins.get(name.id, ("", "")) if isinstance(name, ast.Name) else ("", "")
            if module in listed():
                yield f"{path.relative_to(ROOT)}: {node.name}({module}.{original})"


def test_no_interpreted_class_is_derived_from_a_compiled_one() -> None:
    """Compiled code does not take it for one of its own: the first call with it would fail, in that form alone."""
    compiled = {ROOT / f"{name.replace('.', '/')}.py" for name in listed()}
    others = sorted(path for path in (ROOT / "agent").rglob("*.py") if path not in compiled)
    assert others
    assert not [found for path in others for found in derived_from_compiled(path)]


@pytest.mark.parametrize("option", ["compiled=yes", "compiled="])
def test_a_build_that_is_asked_for_something_else_is_refused(tmp_path: Path, option: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--config-settings", option, "-w", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and f"--config-settings {option}: want true or false" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
