"""The suite on every kernel of the table, one after the other, and a table of what came of it.

python -m tests.kernels [--only NAME[,NAME]] [--suite start|packets|mesh] [-o json] [--accel kvm] [--cores N]
    [--timeout S] [--cache DIR] [--keep DIR] [--fetch] [--pin]     as scripts/kernels calls it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from redirect import features
from tests.kernels import lacks, machine, suites
from tests.kernels.machine import Boot, Machine, Outcome
from tests.kernels.packages import NotToBeHad, missing
from tests.kernels.store import Store
from tests.kernels.suites import Result
from tests.kernels.table import LINES, RUNNING, kernels, write

TREE = Path(__file__).parents[2]
PROGRAMS = {
    machine.QEMU: "qemu-system-x86",
    "modprobe": "kmod",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
}
"""What is needed, and the package of Debian that has it."""
SUITES = ("start", "packets", "mesh")
LACKING = "6.1"
"""The kernel that is booted without pieces: one that has no tcx."""
LACK_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one kernel. `trouble`: why it was not run, or what it complained of."""

    name: str
    release: str
    attach: str
    results: Mapping[str, Result]
    boot_s: float
    seconds: float
    trouble: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.trouble and not any(result.faults for result in self.results.values())


def main(arguments: Sequence[str]) -> int:
    asked = parsed(arguments)
    store = Store(asked.cache)
    if asked.pin:
        write({name: store.suite(suite).newest() for name, suite in LINES})
        say("pinned what the mirror has now")
        return 0
    if asked.fetch:
        return fetch(asked.only, store)
    with tempfile.TemporaryDirectory(prefix="ztun-kernels-") as short:
        work = asked.keep or Path(short)
        began_s = time.monotonic()
        rows = [row for name in asked.only if (row := told(run(name, asked, store, work / name))) is not None]
        refusals = lacking(asked, store, work / "lacking") if asked.lacks else []
        seconds = round(time.monotonic() - began_s, 1)
    if asked.output == "json":
        show(
            json.dumps(
                {"kernels": [asdict(row) for row in rows], "lacks": refusals, "seconds": seconds}, indent=2
            )
        )
    else:
        show(table(rows))
        for name, is_right, text in refusals:
            show(f"{'ok  ' if is_right else 'FAIL'} {name}: {text}")
        show(f"{seconds:.0f} s")
    return 0 if all(row.holds for row in rows) and all(is_right for _, is_right, _ in refusals) else 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    names = [name for name, _ in LINES] + [RUNNING]
    parser = argparse.ArgumentParser(prog="scripts/kernels")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, metavar="NAME[,NAME]")
    parser.add_argument("--suite", choices=SUITES, action="append")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--accel", default="tcg,thread=multi")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--pin", action="store_true")
    asked = parser.parse_args(arguments)
    for name in asked.only:
        if name not in names:
            parser.error(f"no kernel {name} in the table: {', '.join(names)}")
    asked.suite = asked.suite or list(SUITES)
    asked.lacks = LACKING in asked.only and asked.suite == list(SUITES)
    foreign = [name for name in asked.only if name != RUNNING]
    if foreign and not asked.pin and (absent := missing(list(PROGRAMS))):
        packages = " ".join(PROGRAMS[name] for name in absent)
        sys.exit(
            f"kernels: no {', '.join(absent)} here: apt-get install --no-install-recommends {packages}; "
            f"without them only `--only {RUNNING}`"
        )
    return asked


def fetch(names: Sequence[str], store: Store) -> int:
    """What a run needs, so that it waits for nothing."""
    try:
        store.root()
        for name in names:
            if name != RUNNING:
                say(f"{name}: {store.kernel(kernels()[name]).release}")
    except NotToBeHad as error:
        say(str(error))
        return 1
    return 0


def run(name: str, asked: argparse.Namespace, store: Store, work: Path) -> Row:
    if name == RUNNING:
        return run_here(asked.suite, work)
    try:
        kept = store.kernel(kernels()[name])
        root = store.root()
    except NotToBeHad as error:
        return Row(name, "", "", {}, 0.0, 0.0, (f"not run: {error}",))
    work.mkdir(parents=True, exist_ok=True)
    boot = Boot(kept.kernel, kept.initramfs(work / "initramfs.cpio"))
    commands = {"attach": ATTACH, **suites.commands("/results", asked.suite)}
    ran = machine.run(at(asked, root), boot, commands, work / "results", asked.timeout)
    why = "its kernel died" if ran.is_in_time else f"the {asked.timeout:g} s of --timeout were up"
    results = {each: suites.read(each, ran.outcomes[each], work / "results", why) for each in asked.suite}
    attach = ran.outcomes["attach"].log.strip()
    trouble = [f"the kernel complains: {line.strip()}" for line in ran.warnings[:3]]
    if not ran.release:
        trouble.append(f"it did not boot: {' / '.join(ran.console.strip().splitlines()[-3:])}")
    if kept.note:
        say(f"{name}: {kept.note}")
    return Row(name, ran.release or kept.release, attach, results, ran.boot_s, ran.seconds, tuple(trouble))


ATTACH = (
    suites.PYTHON,
    "-c",
    "from redirect import features; print('tcx' if features.has_tcx() else 'clsact')",
)


def run_here(wanted: Sequence[str], work: Path) -> Row:
    """The kernel that this runs on; without a machine around it."""
    work.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    results = {}
    for name, command in suites.commands(str(work), wanted).items():
        at_s = time.monotonic()
        done = subprocess.run(
            command, cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        seconds = round(time.monotonic() - at_s, 1)
        results[name] = suites.read(name, Outcome(done.returncode, done.stdout, seconds), work, "")
    attach = "tcx" if features.has_tcx() else "clsact"
    return Row(RUNNING, platform.release(), attach, results, 0.0, round(time.monotonic() - began_s, 1))


def lacking(asked: argparse.Namespace, store: Store, work: Path) -> list[tuple[str, bool, str]]:
    """(name, whether it is refused in the right words, what was said), for each piece that a kernel may lack."""
    try:
        kept = store.kernel(kernels()[LACKING])
        root = store.root()
    except NotToBeHad as error:
        return [(each.name, False, str(error)) for each in lacks.LACKS]
    work.mkdir(parents=True, exist_ok=True)
    initramfs = kept.initramfs(work / "initramfs.cpio")
    found = []
    for each in lacks.LACKS:
        boot = Boot(kept.kernel, initramfs, each.without, each.arguments)
        ran = machine.run(at(asked, root), boot, {"lack": lacks.COMMAND}, work / "results", LACK_TIMEOUT_S)
        text = ran.outcomes["lack"].log.strip()
        is_right = ran.outcomes["lack"].status == 0 and all(words in text for words in each.says)
        found.append((each.name, is_right, text.splitlines()[-1] if text else ran.console[-300:]))
        say(f"{each.name}: {'refused by name' if is_right else 'NOT refused by name'}")
    return found


def at(asked: argparse.Namespace, root: Path) -> Machine:
    return Machine(root, TREE, asked.accel, asked.cores)


def told(row: Row) -> Row:
    """Said when it is there: the whole takes minutes."""
    words = [f"{name}: {result.word} in {result.seconds:.0f} s" for name, result in row.results.items()]
    say(f"{row.name} ({row.release or 'not run'}): {'; '.join([*words, *row.trouble])}")
    for result in row.results.values():
        for fault in result.faults[:10]:
            say(f"  {fault}")
    return row


def table(rows: Sequence[Row]) -> str:
    """For people, and for the README: Markdown."""
    names = [name for name in SUITES if any(name in row.results for row in rows)]
    lines = [["kernel", "release", "attach", *names, "boot", "seconds"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [row.results[name].word if name in row.results else "not run" for name in names]
        lines.append([row.name, row.release, row.attach, *cells, f"{row.boot_s:.0f} s", f"{row.seconds:.0f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    ]
    return "\n".join([*text, *(f"{row.name}: {trouble}" for row in rows for trouble in row.trouble)])


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    sys.stderr.write(f"kernels: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("kernels: it makes network namespaces and loads eBPF programs: run it as root")
    sys.exit(main(sys.argv[1:]))
