"""The parts of the kernel matrix that need no machine: archives, reports, command lines, the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import at_once, lacks, machine, patience, root, suites
from tests.kernels.__main__ import PROGRAMS, TREE, parsed, table
from tests.kernels.initramfs import FILE, FOLDER, Cpio
from tests.kernels.machine import Boot, Machine, Outcome
from tests.kernels.packages import NotToBeHad, missing
from tests.kernels.runs import Answer, Row
from tests.kernels.suites import Result
from tests.kernels.table import LINES, Deb, kernels, release_of, write

DEB = Deb("linux-image-6.1.0-99-amd64", "6.1.200-1", "a" * 64)
REPORT = """<testsuites><testsuite>
<testcase name="one"/><testcase name="two"><skipped message="no tcx"/></testcase>
<testcase name="three"><failure message="assert 1 == 2&#10;more"/></testcase>
</testsuite></testsuites>"""


def test_every_line_of_the_table_is_pinned() -> None:
    found = kernels()
    assert [*found] == [name for name, _ in LINES]
    for kernel in found.values():
        assert kernel.release.endswith("-amd64")
        assert all(len(deb.sha256) == 64 and deb.version for deb in kernel.debs)


def test_pins_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    write({name: (DEB,) for name, _ in LINES}, path)
    assert all(kernel.debs == (DEB,) for kernel in kernels(path).values())
    assert release_of((Deb("linux-modules-7", "7", "b"), DEB)) == "6.1.0-99-amd64"


@pytest.mark.skipif(
    bool(missing(["cpio", "busybox"])[1:]), reason="needs busybox, which unpacks such an archive"
)
def test_an_archive_is_one(tmp_path: Path) -> None:
    cpio = Cpio()
    cpio.add("folder", FOLDER)
    cpio.add("folder/odd", FILE, b"seven..")
    subprocess.run(
        ["busybox", "cpio", "-i"], input=cpio.whole(), cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / "folder" / "odd").read_bytes() == b"seven.."


def test_what_failed_is_named_and_what_was_skipped_is_no_pass(tmp_path: Path) -> None:
    report = tmp_path / "packets.xml"
    report.write_text(REPORT)
    result = suites.of_pytest(report, Outcome(1, "", 3.0))
    assert (result.passed, result.skipped, len(result.faults)) == (1, 1, 1)
    assert "three" in result.faults[0] and "assert 1 == 2" in result.faults[0]


@pytest.mark.parametrize("name", ["packets", "mesh"])
@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome(None, "collecting\n", 0.0), "its kernel died"),
        (Outcome(2, "boom\n", 1.0), "exit status 2: boom"),
    ],
)
def test_what_did_not_run_is_no_pass(tmp_path: Path, name: str, outcome: Outcome, says: str) -> None:
    result = suites.read(name, outcome, tmp_path, "its kernel died")
    (fault,) = result.faults
    assert says in fault and result.passed == 0


def test_what_fails_is_told_at_once_and_of_a_run_without_an_end(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import os\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\ndef test_end(): os._exit(9)\n"
    )
    words = (sys.executable, *suites.PYTEST[1:], "-p", at_once.__name__, f"--rootdir={tmp_path}", str(test))
    done = subprocess.run(words, cwd=TREE, capture_output=True, text=True, check=False)
    assert done.returncode == 9 and "assert 1 == 2" in done.stdout
    result = suites.read("packets", Outcome(None, done.stdout, 1.0), tmp_path, "its kernel died")
    assert [each for each in result.faults if "test_bad" in each] == [f"FAILED {test.name}::test_bad"]


def test_what_is_left_out_of_the_packet_tests_is_there() -> None:
    for each in suites.OF_THE_COMPILER:
        file, _, name = each.partition("::")
        assert f"def {name}(" in (TREE / file).read_text(), "a name that nobody has leaves nothing out"


def test_a_machine_that_never_came_up_has_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "QEMU", "false")
    boot = Boot(
        Path("vmlinuz"), Path("initramfs"), without=("veth", "tcp_diag"), arguments=("ipv6.disable=1",)
    )
    ran = machine.run(Machine(Path("root"), tmp_path), boot, {"x": ("true",)}, tmp_path / "results", 30)
    assert (ran.release, ran.outcomes["x"].status, ran.is_in_time) == ("", None, True)
    words = " ".join(machine.command_line(Machine(Path("root"), tmp_path), boot, tmp_path))
    assert "ztun.without=veth,tcp_diag ipv6.disable=1" in words


def test_an_emulated_machine_has_its_own_time_and_a_real_one_the_worlds(tmp_path: Path) -> None:
    boot = Boot(Path("vmlinuz"), Path("initramfs"))

    def words(machine_: Machine) -> str:
        return " ".join(machine.command_line(machine_, boot, tmp_path))

    # By instructions: no time-out in it ends by what else its host has to do.
    assert "-icount shift=2" in words(Machine(Path("root"), tmp_path))
    assert "-icount" not in words(Machine(Path("root"), tmp_path, accel="kvm"))
    assert "-icount" not in words(Machine(Path("root"), tmp_path, cores=2)), (
        "QEMU counts those of one core alone"
    )


def test_patience_reaches_whatever_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = parsed(["--only", "running", "--patience", "3"])
    for name, value in patience.environment(asked.patience):
        monkeypatch.setenv(name, value)
    assert patience.factor() == 3.0 and os.environ["ZTUN_LOAD_TIMEOUT_S"] == "1800"
    assert "timeout=1800" in suites.commands("/results", ["packets"], asked.patience)["packets"]
    monkeypatch.setattr(machine, "QEMU", "false")
    given = Machine(Path("root"), tmp_path, environment=patience.environment(3))
    machine.run(given, Boot(Path("vmlinuz"), Path("initramfs")), {"x": ("true",)}, tmp_path / "results", 30)
    assert f"export {patience.PATIENCE}=3\n" in (tmp_path / "results" / "run").read_text()
    with pytest.raises(SystemExit):
        parsed(["--only", "running", "--patience", "0"])


def test_a_kernel_that_finds_a_fault_of_its_own_is_heard() -> None:
    log = "[    1.0] all well\n[    2.0] WARNING: CPU: 0 PID: 1 at net/core/filter.c:1 x\n"
    assert machine.complaints(log) == ("[    2.0] WARNING: CPU: 0 PID: 1 at net/core/filter.c:1 x",)


def test_a_row_with_a_fault_does_not_hold() -> None:
    good = Row("6.1", "6.1.0-99-amd64", "clsact", {"packets": Result(9, 1, (), 5.0)}, 3.0, 20.0)
    assert good.holds and "9 passed, 1 skipped" in table([good], [])
    bad = Row("6.1", "6.1.0-99-amd64", "clsact", {"packets": Result(9, 0, ("x",), 5.0)}, 3.0, 20.0)
    gone = Row("6.1", "", "", {}, 0.0, 0.0, trouble=("not run: no mirror",))
    assert not bad.holds and not gone.holds and "6.1: not run: no mirror" in table([bad, gone], [])


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.kernels.__main__.missing", lambda names: list(names)[:2])
    with pytest.raises(SystemExit, match=r"apt-get install .*qemu-system-x86 kmod"):
        parsed([])
    assert parsed(["--only", "running"]).only == ["running"], "which needs none of them"
    assert missing(["no-such-program", "sh"]) == ["no-such-program"] and "modprobe" in PROGRAMS


def test_a_package_whose_triggers_wait_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As libc-bin's do whenever somebody installs a library meanwhile; one that is half there is not."""
    form = "a\t1\t{}\tb (>= 1)\t\nb\t2\tinstalled\t, \t\n"

    def listed(state: str) -> None:
        text = form.format(state)
        monkeypatch.setattr(root.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), 0, text))

    for state in root.UNPACKED:
        listed(state)
        assert root.closure(["a"]) == {"a=1", "b=2"}
    listed("half-configured")
    with pytest.raises(NotToBeHad, match="apt-get install a"):
        root.closure(["a"])


def test_what_is_asked_of_one_boot_is_asked_in_one() -> None:
    boots = lacks.starts()
    assert [each for of_boot in boots.values() for each in of_boot] == [*lacks.LACKS]
    assert len({each.key for each in lacks.LACKS}) == len(lacks.LACKS)
    assert all(each.says[0] in ("refused", "accepted") for each in lacks.LACKS)
    assert {start.kernel for start in boots} <= set(kernels())


def test_an_answer_without_the_remedy_is_a_fault() -> None:
    (veth,) = (each for each in lacks.LACKS if each.name == "no veth")
    assert veth.is_right(0, "refused: no veth device can be made: `modprobe veth`")
    assert not veth.is_right(0, "refused: Operation not supported")
    assert not veth.is_right(None, "refused: `modprobe veth`"), "it did not come to its end"
    shown = table([], [Answer("no veth", "6.1", False, "refused: Operation not supported")])
    assert "| FAIL | 6.1    | no veth |" in shown


def test_suites_may_be_named_one_by_one() -> None:
    foreign = ["--only", "running", "--suite"]
    assert parsed([*foreign, "start"]).suite == ["start"] and not parsed([*foreign, "start"]).lacks
    assert parsed([*foreign, "lacks", "--suite", "mesh"]).suite == ["mesh"]
