"""Child processes: whose code they load, and that each way of failing is told by its kind and in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from redirect import child, spawn
from redirect.spawn import Cause, ChildFailed
from tests.support.endings import FAILING, WAYS, ended

PATIENCE_S = 30.0


@pytest.mark.parametrize(("how", "cause", "text"), WAYS)
def test_each_way_to_end_has_its_cause_and_one_line(
    how: str, cause: Cause, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failure = ended(spawn.start(FAILING, [how]))
    assert failure.cause is cause
    assert str(failure).startswith(text) and "\n" not in str(failure)
    assert ("Traceback" in failure.details) == (cause in (Cause.SYSTEM, Cause.DEFECT, Cause.REFUSED))
    assert capfd.readouterr() == ("", "")


def test_a_module_that_does_not_load_is_a_defect_that_is_named() -> None:
    failure = ended(spawn.start("redirect.no_such_module", []))
    assert failure.cause is Cause.DEFECT and "no_such_module" in failure.text


def test_a_run_that_fails_has_what_it_printed_among_the_details() -> None:
    with pytest.raises(ChildFailed, match=r"^tests.support.failing_child: exit status 7$") as caught:
        spawn.run(FAILING, ["complain"], timeout_s=PATIENCE_S)
    assert "last words" in caught.value.failure.details
    spawn.run(FAILING, ["end"], timeout_s=PATIENCE_S)


def test_a_run_that_takes_too_long_is_ended() -> None:
    with pytest.raises(ChildFailed, match=r"took more than 0\.1 s"):
        spawn.run(FAILING, ["sleep"], timeout_s=0.1)


def test_a_report_that_nobody_reads_any_more_goes_to_stderr(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = child.command(FAILING, "defect", report_fd=writing)
    done = subprocess.run(argv, pass_fds=(writing,), capture_output=True, text=True, timeout=PATIENCE_S)
    os.close(writing)
    assert done.returncode == 1 and "KeyError: 'lost'" in done.stderr


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, which PYTHONPATH names too, full of modules that would take over."""
    for name in ("agent", "redirect", "argparse", "json", "psutil", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("module", ["agent.start", "agent.worker", "redirect.loader", "redirect.nursery"])
def test_code_of_the_working_directory_and_of_the_environment_is_not_loaded(
    hostile: Path, module: str
) -> None:
    ended(spawn.start(module, []))
    assert not (hostile / "taken").exists()


def test_a_child_runs_the_code_its_parent_was_loaded_from(tmp_path: Path) -> None:
    """A checkout beside an installed ztun; a wheel is the same, unpacked where it lies."""
    root = Path(child.__file__).parents[1]
    for package in ("agent", "redirect", "bpf"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "agent" / "whose.py").write_text("def main():\n    raise SystemExit(__file__)\n")
    script = "from redirect import spawn; print(spawn.start('agent.whose', []).failure())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.strip() == str(tmp_path / "agent" / "whose.py"), done.stderr


def test_a_child_has_a_session_of_its_own_and_outlives_interrupts() -> None:
    started = spawn.start(FAILING, ["sleep"])
    try:
        assert os.getsid(started.pid) == started.pid != os.getsid(0)
        os.kill(started.pid, signal.SIGKILL)
    finally:
        assert ended(started).text == "ended by SIGKILL"
