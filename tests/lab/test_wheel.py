"""The wheel, installed into an environment of its own, does what a checkout does: nothing is read from the tree."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def ztun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of a fresh environment with the wheel, and with the libraries of the environment of the tests."""
    where = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    # A copy: setuptools leaves a `build` folder in the tree it builds.
    source = where / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if name.startswith(
            (
                "agent/",
                "redirect/",
                "bpf/",
                "scripts/packaging/",
                "setup.cfg",
                "pyproject.toml",
                "README.md",
                "LICENSE",
            )
        ):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(where), str(source)], check=True
    )
    (wheel,) = where.glob("*.whl")
    venv.create(where / "env", with_pip=False)
    (packages,) = (where / "env" / "lib").glob("python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(packages), str(wheel)], check=True)
    # Not by a .pth of the editable install: only the libraries, behind what the wheel brought.
    libraries = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    yield where / "env" / "bin" / "python"


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = "from agent.cli.entry import main; main()"
    return subprocess.run(
        [str(python), "-P", "-c", command, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd="/",
    )


def test_the_modules_are_those_of_the_wheel(ztun: Path) -> None:
    command = "import agent, redirect, bpf; print(agent.__file__, redirect.__file__, bpf.__file__)"
    done = subprocess.run(
        [str(ztun), "-P", "-c", command], capture_output=True, text=True, cwd="/", check=True
    )
    assert not [path for path in done.stdout.split() if Path(path).is_relative_to(ROOT / "agent")]
    assert all(Path(path).is_relative_to(ztun.parents[1]) for path in done.stdout.split())


def test_a_lab_is_built_by_the_wheel_alone(ztun: Path) -> None:
    name = f"hw{os.getpid()}"
    try:
        done = run(ztun, "lab", "up", "--name", name)
        assert done.returncode == 0, done.stderr
        assert "2 nodes, 4 pods" in done.stdout
        done = run(ztun, "status", "--lab", f"{name}/node-a")
        assert done.stdout.startswith("READY "), done.stdout
    finally:
        assert run(ztun, "lab", "down", "--name", name).returncode == 0
