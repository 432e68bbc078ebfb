"""The suite on every kernel of the table, some machines side by side, and a table of what came of it.

python -m tests.kernels [--only NAME[,NAME]] [--suite start|packets|mesh|lacks] [-o json] [--accel kvm] [--machines N]
    [--cores N] [--timeout S] [--patience FACTOR] [--cache DIR] [--keep DIR] [--fetch] [--pin]
as scripts/kernels calls it
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.kernels import lacks, machine, suites
from tests.kernels.packages import NotToBeHad, missing
from tests.kernels.runs import TREE, Answer, Row, Runner
from tests.kernels.store import Store
from tests.kernels.table import LINES, RUNNING, kernels, write

PROGRAMS = {
    machine.QEMU: "qemu-system-x86",
    "modprobe": "kmod",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
}
"""What is needed, and the package of Debian that has it."""
SUITES = ("start", "packets", "mesh")
COMPILED = ("agent", "redirect", "tests", ".venv/lib")
LACKS = "lacks"
"""A suite that asks no kernel as it is."""


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
        began_s = time.monotonic()
        rows, answers = everything(asked, store, asked.keep or Path(short))
        seconds = round(time.monotonic() - began_s, 1)
    if asked.output == "json":
        found = {"kernels": [asdict(row) for row in rows], LACKS: [asdict(answer) for answer in answers]}
        show(json.dumps(found | {"seconds": seconds}, indent=2))
    else:
        show(table(rows, answers))
        show(f"{seconds:.0f} s")
    return 0 if all(row.holds for row in rows) and all(answer.is_right for answer in answers) else 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    names = [name for name, _ in LINES] + [RUNNING]
    parser = argparse.ArgumentParser(prog="scripts/kernels")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, metavar="NAME[,NAME]")
    parser.add_argument("--suite", choices=(*SUITES, LACKS), action="append")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--accel", default="tcg")
    parser.add_argument("--machines", type=int, default=max(1, os.cpu_count() or 1))
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1200.0, metavar="SECONDS")
    parser.add_argument("--patience", type=float, default=1.0, metavar="FACTOR")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--pin", action="store_true")
    asked = parser.parse_args(arguments)
    for name in asked.only:
        if name not in names:
            parser.error(f"no kernel {name} in the table: {', '.join(names)}")
    if asked.machines < 1 or asked.cores < 1:
        parser.error("--machines and --cores are 1 at least")
    if asked.patience <= 0:
        parser.error("--patience is more than 0: 4 waits four times as long")
    suites = asked.suite or [*SUITES, LACKS]
    asked.suite = [name for name in SUITES if name in suites]
    asked.lacks = {
        start: of_boot
        for start, of_boot in lacks.starts().items()
        if LACKS in suites and start.kernel in asked.only
    }
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


def everything(asked: argparse.Namespace, store: Store, work: Path) -> tuple[list[Row], list[Answer]]:
    """Each kernel, and each boot that lacks a piece; what takes longest first."""
    if asked.only != [RUNNING]:
        # By this processor rather than by each emulated one, for each process anew.
        for place in COMPILED:
            compileall.compile_dir(TREE / place, quiet=2)
        if "packets" in asked.suite:
            # pytest compiles tests by itself.
            writing = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
            subprocess.run(suites.COLLECT, cwd=TREE, env=writing, stdout=subprocess.DEVNULL, check=False)
    runner = Runner(
        store, work, asked.suite, asked.accel, asked.cores, asked.timeout * asked.patience, asked.patience
    )
    with ThreadPoolExecutor(asked.machines) as machines:
        rows = [machines.submit(one, runner, each) for each in (asked.only if asked.suite else ())]
        boots = [
            machines.submit(partial(runner.lacking, start, of_boot)) for start, of_boot in asked.lacks.items()
        ]
        return [row.result() for row in rows], [answer for boot in boots for answer in boot.result()]


def one(runner: Runner, name: str) -> Row:
    return told(runner.here() if name == RUNNING else runner.on_another(name))


def told(row: Row) -> Row:
    """Said when it is there: the whole takes minutes."""
    words = [f"{name}: {result.word} in {result.seconds:.0f} s" for name, result in row.results.items()]
    say(f"{row.name} ({row.release or 'not run'}): {'; '.join([*words, *row.trouble])}")
    for result in row.results.values():
        for fault in result.faults[:10]:
            say(f"  {fault}")
    if row.note:
        say(f"{row.name}: {row.note}")
    return row


def table(rows: Sequence[Row], answers: Sequence[Answer]) -> str:
    """For people, and for the README: Markdown."""
    text: list[str] = []
    if rows:
        names = [name for name in SUITES if any(name in row.results for row in rows)]
        text += aligned(
            ["kernel", "release", "attach", *names, "boot", "seconds", "of a processor"],
            [
                [
                    row.name,
                    row.release,
                    row.attach,
                    *(row.results[name].word if name in row.results else "not run" for name in names),
                    f"{row.boot_s:.0f} s",
                    f"{row.seconds:.0f}",
                    f"{row.cpu_s:.0f}",
                ]
                for row in rows
            ],
        )
        text += [f"{row.name}: {trouble}" for row in rows for trouble in row.trouble]
    if answers:
        lines = [["ok" if each.is_right else "FAIL", each.kernel, each.name, each.text] for each in answers]
        text += ["", *aligned(["", "kernel", "without", "the agent"], lines)]
    return "\n".join(text)


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    whole = [head, ["---"] * len(head), *lines]
    # The last one is text of any length.
    widths = [max(len(line[column]) for line in whole) for column in range(len(head) - 1)] + [0]
    return [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in whole
    ]


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    sys.stderr.write(f"kernels: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("kernels: it makes network namespaces and loads eBPF programs: run it as root")
    sys.exit(main(sys.argv[1:]))
