"""`scripts/fuzz`: noise for each parser by atheris, which goes after what runs code that no input before it ran.

One process a parser: what libFuzzer is linked into ends with the run. It bounds time and memory of each input; inputs
that ran something new may be kept in the tree, where CI replays them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tests.fuzz.parsers import CORPUS, NAMES, check_of, corpus_of

LIMITS = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=2048", "-print_final_stats=1", "-verbosity=1")
CODE = ("agent", "hpack", "dns")
OURS = str(Path(__file__).parents[2] / "agent")
CORPUS_BYTES = 3000
"""Kept of each parser, as lines of hexadecimal of half of that."""
EXECUTED = re.compile(r"stat::number_of_executed_units: (\d+)")
PROGRESS = re.compile(r"^#(\d+)\s", re.M)
COVERED = re.compile(r"cov: (\d+)")


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        feed(sys.argv[2], sys.argv[3:])
    options = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.partition(":")[2])
    options.add_argument("--for", dest="seconds", type=int, default=60, help="seconds for each parser [60]")
    options.add_argument("--inputs", type=int, default=0, help="at most so many for each")
    options.add_argument("--only", default=",".join(NAMES), help="names, with commas between them")
    options.add_argument(
        "--keep", action="store_true", help="put small inputs that ran something new into the corpus"
    )
    told = options.parse_args()
    names = told.only.split(",")
    if unknown := set(names) - set(NAMES):
        options.error(f"no parser {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    sums = [run(name, told.seconds, told.inputs, is_kept=told.keep) for name in names]
    print(f"fuzz: {sum(count for count, _ in sums):,} inputs, {sum(found for _, found in sums)} findings")
    return 1 if any(found for _, found in sums) else 0


def run(name: str, seconds: int, inputs: int, *, is_kept: bool) -> tuple[int, int]:
    """How many inputs it was fed, and whether one of them broke a rule."""
    with tempfile.TemporaryDirectory(prefix="ztun-fuzz-") as made:
        directory = Path(made, "corpus")
        directory.mkdir()
        for number, seed in enumerate(corpus_of(name)):
            (directory / f"seed-{number}").write_bytes(seed)
        flags = [f"-max_total_time={seconds}", f"-artifact_prefix={made}/", *LIMITS]
        done = child(name, str(directory), *flags, *([f"-runs={inputs}"] if inputs else []))
        count = int((EXECUTED.findall(done.stderr) or PROGRESS.findall(done.stderr) or ["0"])[-1])
        covered = (COVERED.findall(done.stderr) or ["?"])[-1]
        print(f"fuzz: {name:20} {count:>10,} inputs, {covered} edges", flush=True)
        broken = [path for path in Path(made).iterdir() if path.is_file()]
        if done.returncode or broken:
            print(done.stdout[-3000:] + done.stderr[-3000:])
            for path in broken:
                print(f"fuzz: {path.name}: {path.read_bytes().hex()}", flush=True)
        elif is_kept:
            keep(name, directory)
        return count, int(bool(done.returncode or broken))


def keep(name: str, found: Path) -> None:
    """The corpus as it is, and the smallest of what was found that run a line of ours that nothing before them did."""
    check, held = check_of(name), corpus_of(name)
    known = set[tuple[str, int]]().union(*(lines_run(check, each) for each in held))
    room = CORPUS_BYTES - sum(map(len, held))
    for each in sorted(
        {path.read_bytes() for path in found.iterdir()} - set(held), key=lambda data: (len(data), data)
    ):
        fresh = lines_run(check, each) - known if len(each) <= room else set()
        if fresh:
            known |= fresh
            held.append(each)
            room -= len(each)
    (CORPUS / f"{name}.txt").write_text("".join(f"{each.hex()}\n" for each in held))


def lines_run(check: Callable[[bytes], None], data: bytes) -> set[tuple[str, int]]:
    """The lines of the agent's code that an input runs."""
    seen = set[tuple[str, int]]()

    def note(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        if OURS not in frame.f_code.co_filename:
            return None
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    sys.settrace(note)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return seen


def child(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--child", name, *flags]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def feed(name: str, flags: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(CODE), enable_loader_override=False):
        check = check_of(name)
    atheris.Setup([name, *flags], check)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
