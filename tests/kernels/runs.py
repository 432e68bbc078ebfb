"""What is run on one kernel: the suites in a machine of its own or on this one, and boots that lack a piece."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redirect import features
from tests.kernels import machine, suites
from tests.kernels.lacks import Lack, Start
from tests.kernels.machine import Boot, Machine, Outcome
from tests.kernels.packages import NotToBeHad
from tests.kernels.patience import environment
from tests.kernels.store import Store
from tests.kernels.suites import Result
from tests.kernels.table import RUNNING, kernels

TREE = Path(__file__).parents[2]
ATTACH = (
    suites.PYTHON,
    "-c",
    "from redirect import features; print('tcx' if features.has_tcx() else 'clsact')",
)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one kernel. `cpu_s`: what its machine used of the host's processors; `trouble`: why it was not run,
    or what it complained of; `note`: why it is not the pinned one, where it is not."""

    name: str
    release: str
    attach: str
    results: Mapping[str, Result]
    boot_s: float
    seconds: float
    cpu_s: float = 0.0
    trouble: tuple[str, ...] = ()
    note: str = ""

    @property
    def holds(self) -> bool:
        return not self.trouble and not any(result.faults for result in self.results.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said where a piece is missing, and whether that is right."""

    name: str
    kernel: str
    is_right: bool
    text: str


@dataclass(frozen=True, slots=True)
class Runner:
    """`work` is where results are left. `accel`, `cores`: of each machine; `timeout_s`: what one may take;
    `patience`: so many times as long waits what its suites wait for."""

    store: Store
    work: Path
    wanted: Sequence[str]
    accel: str
    cores: int
    timeout_s: float
    patience: float = 1.0

    def on_another(self, name: str) -> Row:
        try:
            kept, root = self.store.kernel(kernels()[name]), self.store.root()
        except NotToBeHad as error:
            return Row(name, "", "", {}, 0.0, 0.0, trouble=(f"not run: {error}",))
        work = self.work / name
        work.mkdir(parents=True, exist_ok=True)
        boot = Boot(kept.kernel, kept.initramfs(work / "initramfs.cpio"))
        commands = {"attach": ATTACH, **suites.commands("/results", self.wanted, self.patience)}
        ran = machine.run(self._machine(root), boot, commands, work / "results", self.timeout_s)
        why = "its kernel died" if ran.is_in_time else f"the {self.timeout_s:g} s of --timeout were up"
        results = {each: suites.read(each, ran.outcomes[each], work / "results", why) for each in self.wanted}
        trouble = [f"the kernel complains: {line.strip()}" for line in ran.warnings[:3]]
        if not ran.release:
            trouble.append(f"it did not boot: {' / '.join(ran.console.strip().splitlines()[-3:])}")
        return Row(
            name,
            ran.release or kept.release,
            ran.outcomes["attach"].log.strip(),
            results,
            ran.boot_s,
            ran.seconds,
            ran.cpu_s,
            tuple(trouble),
            kept.note,
        )

    def here(self) -> Row:
        """The kernel that this runs on; without a machine around it."""
        work = self.work / RUNNING
        work.mkdir(parents=True, exist_ok=True)
        began_s = time.monotonic()
        results = {}
        for name, command in suites.commands(str(work), self.wanted, self.patience).items():
            at_s = time.monotonic()
            done = subprocess.run(
                command,
                cwd=TREE,
                env=os.environ | dict(environment(self.patience)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            (work / f"{name}.log").write_text(done.stdout)
            outcome = Outcome(done.returncode, done.stdout, round(time.monotonic() - at_s, 1))
            results[name] = suites.read(name, outcome, work, "")
        attach = "tcx" if features.has_tcx() else "clsact"
        return Row(RUNNING, platform.release(), attach, results, 0.0, round(time.monotonic() - began_s, 1))

    def lacking(self, start: Start, lacks: Sequence[Lack]) -> list[Answer]:
        """Of one boot."""
        try:
            kept, root = self.store.kernel(kernels()[start.kernel]), self.store.root()
        except NotToBeHad as error:
            return [Answer(each.name, start.kernel, False, str(error)) for each in lacks]
        work = self.work / f"lacking-{lacks[0].key}"
        work.mkdir(parents=True, exist_ok=True)
        boot = Boot(kept.kernel, kept.initramfs(work / "initramfs.cpio"), start.without, start.arguments)
        commands = {each.key: each.command for each in lacks}
        ran = machine.run(self._machine(root), boot, commands, work / "results", self.timeout_s)
        answers = []
        for each in lacks:
            outcome = ran.outcomes[each.key]
            text = outcome.log.strip()
            last = text.splitlines()[-1] if text else " / ".join(ran.console.strip().splitlines()[-3:])
            answers.append(Answer(each.name, start.kernel, each.is_right(outcome.status, text), last))
        return answers

    def _machine(self, root: Path) -> Machine:
        return Machine(root, TREE, self.accel, self.cores, environment=environment(self.patience))
