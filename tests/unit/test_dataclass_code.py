"""What methods of dataclasses compile to, kept: it is taken where it fits, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
import marshal
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from agent.dataclass_code import Kept, kept
from agent.dataclass_keeping import Recorder, keep
from redirect import child

ROOT = Path(__file__).parents[2]
MODULE = "ztun_of_a_test"
SOURCE = """
from dataclasses import dataclass, field

@dataclass(frozen=True, slots=True, order=True)
class Point:
    x: int
    y: int = 2
    names: list[str] = field(default_factory=list)
"""
COUNTED = """
import builtins, json, sys
compiled, compiling = [], builtins.exec

def counting(what, *scopes):
    if isinstance(what, str):
        compiled.append(scopes[0]["__name__"])
    compiling(what, *scopes)

builtins.exec = counting
sys.path.insert(0, sys.argv[1])
import agent.app, agent.worker
print(json.dumps([name for name in compiled if name.split(".")[0] in ("agent", "redirect")]))
"""
"""An agent's and a worker's modules, and those for which text was compiled."""


def loaded(run: object, monkeypatch: pytest.MonkeyPatch, source: str = SOURCE) -> dict[str, object]:
    """The module's names, its dataclasses made by `run`."""
    monkeypatch.setitem(vars(dataclasses), "exec", run)
    module = type(sys)(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(source, vars(module))
    return vars(module)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where all that SOURCE compiles to is kept."""
    recorder = Recorder()
    loaded(recorder, monkeypatch)
    keep(f"{tmp_path}/", recorder.codes)
    return f"{tmp_path}/"


def texts_compiled(directory: str, monkeypatch: pytest.MonkeyPatch, source: str = SOURCE) -> int:
    """Of the module's, those that were not kept; its class works whatever they are."""
    found = kept(directory, MODULE)
    missing = 0
    run = Kept(directory)

    def counted(text: str, scope: dict[str, object], names: dict[str, object]) -> None:
        nonlocal missing
        missing += text not in found
        run(text, scope, names)

    point = loaded(counted, monkeypatch, source)["Point"]
    made = point(1)  # type: ignore[operator]
    assert (made.x, made.y) == (1, 2) and made == point(1) and made < point(2)  # type: ignore[operator]
    assert repr(made).startswith("Point(x=1, y=2") and made.names is not point(1).names  # type: ignore[operator]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.x = 3
    return missing


def test_what_is_kept_is_not_compiled_again(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts_compiled(directory, monkeypatch) == 0


def test_a_class_that_has_changed_is_compiled_as_it_is(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = SOURCE.replace("y: int = 2", "y: int = 2\n    z: int = 3")
    assert texts_compiled(directory, monkeypatch, changed) > 0


def test_without_a_file_everything_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts_compiled(f"{tmp_path}/nowhere/", monkeypatch) > 0


def test_what_another_python_has_kept_is_left_alone(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(directory) / MODULE
    file.write_bytes(bytes(len(MAGIC_NUMBER)) + file.read_bytes()[len(MAGIC_NUMBER) :])
    assert texts_compiled(directory, monkeypatch) > 0


def test_a_class_of_no_module_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(dataclasses), "exec", Kept(f"{tmp_path}/"))
    made = dataclasses.make_dataclass("Made", ["x"], namespace={"__module__": "no/such.module"})
    assert made(1) == made(1)


def test_installed_as_setup_does_it_a_start_compiles_none_of_ours(tmp_path: Path) -> None:
    """In a copy of the tree's modules: the one of the tests may be older than a source that was just changed."""
    for package in ("agent", "redirect"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix == ".py":
                copy = tmp_path / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    subprocess.run([sys.executable, "-I", str(tmp_path / "agent/dataclass_keeping.py")], check=True)
    done = subprocess.run(
        [sys.executable, "-I", "-c", COUNTED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
    assert child.command("agent.start")[1] == "-I", "which is how an agent's interpreter is started"


def test_files_hold_nothing_but_code(directory: str) -> None:
    content = (Path(directory) / MODULE).read_bytes()
    codes = marshal.loads(content[len(MAGIC_NUMBER) :])
    assert all(type(code).__name__ == "code" for code in codes.values())
