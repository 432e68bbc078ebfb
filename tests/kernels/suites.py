"""What is run on each kernel, and how its result is read: packet tests, and a mesh from its beginning to its end."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernels import at_once
from tests.kernels.machine import Outcome

PYTHON = ".venv/bin/python"
PYTEST = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--durations=5")
COLLECT = (*PYTEST, "--collect-only", "-q", "tests/packets")
"""Leaves the bytecode of the tests, as pytest has it, beside them."""
TEST_TIMEOUT_S = 600.0
OF_THE_COMPILER = (
    "tests/packets/test_arm64.py::test_what_an_arm64_host_makes_of_the_sources_is_accepted",
    "tests/packets/test_arm64.py::test_it_was_compiled_for_arm64",
    "tests/packets/test_layout.py::test_structs_and_enumerators_are_the_same_in_c",
    "tests/packets/test_loader.py::test_what_the_verifier_says_of_a_program_is_in_the_file",
    "tests/packets/test_loader.py::test_a_failure_is_one_line_that_names_the_file_with_all_the_words",
    "tests/packets/test_loader.py::test_a_machine_that_takes_longer_than_it_may_is_named",
)
"""Left out of the packet tests: what no kernel is asked, and what costs an emulated machine half a minute each."""
FEWER = "--hypothesis-profile=emulated"
LEFT_OUT = tuple(f"--deselect={each}" for each in OF_THE_COMPILER)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one suite on one kernel. `faults`: a line for each that failed, or for what kept the suite from its end."""

    passed: int
    skipped: int
    faults: tuple[str, ...]
    seconds: float

    @property
    def word(self) -> str:
        if self.faults:
            return f"{len(self.faults)} FAILED, {self.passed} passed"
        return f"{self.passed} passed" + (f", {self.skipped} skipped" if self.skipped else "")


def commands(results: str, wanted: Sequence[str], patience: float = 1.0) -> dict[str, Sequence[str]]:
    """The command of each suite by its name; `results` is where it leaves its own account."""
    timeout = f"timeout={TEST_TIMEOUT_S * patience:g}"
    known: Mapping[str, Sequence[str]] = {
        "start": (PYTHON, "-m", "tests.kernels.foundation", f"{results}/start.json"),
        "packets": (
            *PYTEST,
            "-p",
            at_once.__name__,
            "-o",
            timeout,
            FEWER,
            f"--junitxml={results}/packets.xml",
            *LEFT_OUT,
            "tests/packets",
        ),
        "mesh": (PYTHON, "-m", "tests.kernels.mesh", f"{results}/mesh.json"),
    }
    return {name: known[name] for name in wanted}


def read(name: str, outcome: Outcome, results: Path, why: str) -> Result:
    """What a suite did; `why` says what may have become of one that never ended."""
    if outcome.status is None:
        failed = [line for line in outcome.log.splitlines() if line.startswith(at_once.SIGN)]
        faults = [f"{name} did not come to its end: {why}: {_last(outcome.log)}", *failed]
        return Result(0, 0, tuple(faults), outcome.seconds)
    if name == "packets":
        return of_pytest(results / "packets.xml", outcome)
    account = results / f"{name}.json"
    facts = json.loads(account.read_text()) if account.exists() else []
    faults = [fact["text"] for fact in facts if not fact["holds"]]
    if outcome.status and not faults:
        faults = [f"exit status {outcome.status}: {_last(outcome.log)}"]
    return Result(len(facts) - len([f for f in facts if not f["holds"]]), 0, tuple(faults), outcome.seconds)


def of_pytest(report: Path, outcome: Outcome) -> Result:
    """From the XML that pytest wrote; one that ended with an error and names no failure has one."""
    passed = skipped = 0
    faults: list[str] = []
    if report.exists():
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            wrong = [child for child in case if child.tag in ("failure", "error")]
            if wrong:
                faults.append(f"{case.get('name')}: {(wrong[0].get('message') or '').splitlines()[0:1]}")
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    if outcome.status and not faults:
        faults.append(f"exit status {outcome.status}: {_last(outcome.log)}")
    return Result(passed, skipped, tuple(faults), outcome.seconds)


def _last(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
