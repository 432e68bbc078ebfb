"""What a newcomer's scripts do before they install anything: say what they are, and refuse what they do not know."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
ALL = sorted(path.name for path in SCRIPTS.iterdir() if path.is_file() and os.access(path, os.X_OK))
PROGRAMS = ("apt-get", "dpkg-query", "pip", "python", "python3", "dirname")
"""What the scripts call on their way to install something; `dirname` leads to the tree."""


def run(tmp_path: Path, script: str, *arguments: str, user: int | None = None) -> tuple[int, str, str, str]:
    """Exit status, stdout, stderr, and which programs were called."""
    called = tmp_path / "called"
    for program in PROGRAMS:
        (tmp_path / program).write_text(f"#!/bin/sh\necho {program} >> {called}\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    text = (SCRIPTS / script).read_text()
    done = subprocess.run(
        ["bash", "-c", text, str(SCRIPTS / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=user,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    return done.returncode, done.stdout, done.stderr, called.read_text() if called.exists() else ""


@pytest.mark.parametrize("script", ALL)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_installs_nothing(tmp_path: Path, script: str, option: str) -> None:
    status, said, _, called = run(tmp_path, script, option)
    assert (status, called) == (0, "")
    assert f"scripts/{script}" in said


@pytest.mark.parametrize(
    "script", [name for name in ALL if re.search(r"^ *scripts/setup", (SCRIPTS / name).read_text(), re.M)]
)
def test_help_says_what_becomes_of_compiled_modules(tmp_path: Path, script: str) -> None:
    """A unit may run from this checkout."""
    said = " ".join(run(tmp_path, script, "--help")[1].split())
    assert re.search(r"of this checkout (that are compiled are removed|is compiled after it)", said, re.I)


def test_the_list_of_faults_installs_nothing(tmp_path: Path) -> None:
    for name, text in {
        "scripts/chaos": (SCRIPTS / "chaos").read_text(),
        "scripts/setup": "#!/bin/sh\ntouch installed\n",
        "scripts/own-world": "#!/bin/sh\n",
        ".venv/bin/python": '#!/bin/sh\necho "$@"\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def listed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tmp_path / "scripts/chaos", "--list"], capture_output=True, text=True, check=False
        )

    missed = listed()
    assert missed.returncode == 1 and "`scripts/setup dev`" in missed.stderr
    (tmp_path / ".venv/.ztun-setup[dev]").touch()
    assert listed().stdout == "-m tests.chaos --list\n"
    assert not (tmp_path / "installed").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("quickstart", ["--kep"], "no such option: --kep"),
        ("quickstart", ["--keep", "lab"], "no such option: lab"),
        ("quickstart", ["--name"], "--name takes a NAME"),
        ("setup", ["devel"], "no such argument: devel"),
        ("image", ["--push"], "no such option: --push"),
        ("kubernetes-build", ["--all"], "no such option: --all"),
        ("helm-build", ["--all"], "no such option: --all"),
        ("cni-build", ["--all"], "no such option: --all"),
        ("kernels", ["--onli", "6.1"], "no such option: --onli"),
        ("cluster-test", ["--kep"], "no such argument: --kep"),
        ("bench", ["flood", "--rouns", "3"], "no such option: --rouns"),
        ("chaos", ["--sead", "3"], "no such option: --sead"),
        ("soak", ["--fore", "2h"], "no such option: --fore"),
        ("check", ["agent"], "no such argument: agent"),
        ("fuzz", ["--input", "3"], "no such option: --input"),
        ("fuzz", ["--for"], "--for takes a value"),
        ("gen-cli", ["--all"], "no such argument: --all"),
        ("gen-proto", ["--all"], "no such argument: --all"),
    ],
)
def test_a_wrong_call_installs_nothing(tmp_path: Path, script: str, arguments: list[str], says: str) -> None:
    status, _, said, called = run(tmp_path, script, *arguments)
    assert (status, called) == (2, "")
    assert says in said


def test_the_bench_refuses_no_option_that_it_has(tmp_path: Path) -> None:
    """Its script knows the names of all, so that a wrong one is refused before minutes of compiling."""
    sources = [path.read_text() for path in (SCRIPTS.parent / "tests" / "bench").glob("*.py")]
    options = {name for text in sources for name in re.findall(r'add_argument\(\s*"(--[a-z-]+)"', text)}
    assert {"--kind", "--quick", "--flips"} <= options
    for option in options:
        status, _, said, _ = run(tmp_path, "bench", option)
        assert "no such option" not in said and status != 2, said
    status, shown, _, _ = run(tmp_path, "bench", "--help")
    assert not [option for option in options if option not in shown]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_whoever_is_not_root_is_told_so_before_anything_is_installed(tmp_path: Path) -> None:
    status, _, said, called = run(tmp_path, "quickstart", "--keep", "--name", "x", user=65534)
    assert (status, called) == (1, "")
    assert "run it as root" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as the quickstart does")
def test_a_right_call_gets_to_work(tmp_path: Path) -> None:
    """Else the tests above would hold for a script that does nothing at all."""
    for script in ("quickstart", "setup"):
        assert "dirname" in run(tmp_path, script)[3]
