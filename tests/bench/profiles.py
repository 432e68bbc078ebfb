"""`scripts/bench profile`: where the CPU time of both proxies goes, by connection, message, GB and handshake.

perf samples the processes by a clock of the time that they run, and each sample counts for what ran then. What that
is worth in time comes from the processes' own CPU time, as everywhere in this bench.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.conclusion import conclude
from tests.bench.lab_options import refuse_unfit
from tests.bench.rounds import BenchError, Rounds, Workload
from tests.bench.systems import Stage, System

HERTZ = 1999
"""No divisor of the kernel's own ticks."""
WARM_UP_S, LENGTH_S = 0.3, 2.0
WORK = (
    (Workload("connect", "connect", 32), "cpu_connect", "new connection", 1.0),
    (Workload("exchange_1", "exchange", 1), "cpu_exchange_1", "message and answer, 1 connection", 1.0),
    (Workload("exchange_64", "exchange", 64), "cpu_exchange_64", "message and answer, 64 connections", 1.0),
    (Workload("download_8", "download", 8), "cpu_download_8", "MB, 8 downloads", 1e3),
    (Workload("handshake", "handshake"), "cpu_handshake", "handshake, server alone", 1.0),
)
"""With the metric that has its CPU time, what is done once in it, and how many microseconds are one of that metric."""

KERNEL, AEAD, TLS, PYTHON, LIBC, REST = "kernel", "AEAD", "OpenSSL", "interpreter", "libc", "rest"
OURS = "ztun, compiled"
AGENT = Path(__file__).parents[2] / "agent"
ORDER = (KERNEL, AEAD, TLS, LIBC, PYTHON)
_SAMPLE = re.compile(r"\s*[0-9a-f]+ (?P<symbol>.*) \((?P<object>.*)\)$")
_COMPILED = re.compile(r"CPy(?:Def|Py|Static|Gen)_(?P<name>\w+)")
_CIPHERS = re.compile(r"aes|gcm|ghash|chacha|poly1305|vpclmul", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """What one piece of work costs a system: microseconds by layer, and by module of ours."""

    system: str
    what: str
    total_us: float
    samples: int
    layers: dict[str, float]
    modules: dict[str, float]


def layer_of(symbol: str, where: str) -> tuple[str, str]:
    """The layer that a sample counts for, and the module of ours where there is one. `where`: the file of the code."""
    name = Path(where).name
    if where.startswith("[kernel") or where == "[guest.kernel.kallsyms]" or where == "[vdso]":
        return KERNEL, ""
    if "_rust" in name or name.startswith(("libssl", "libcrypto", "_openssl")):
        return (AEAD, "") if _CIPHERS.search(symbol) else (TLS, "")
    if "__mypyc" in name and where.startswith(str(AGENT)):
        found = _COMPILED.match(symbol)
        return OURS, module_of(found["name"]) if found is not None else "of the compiler"
    if name.startswith("python3"):
        return PYTHON, ""
    if name.startswith(("libc.", "libc-", "ld-linux", "libpthread")):
        return LIBC, ""
    if name.startswith("envoy"):
        return (AEAD, "") if _CIPHERS.search(symbol) else ("Envoy with its TLS", "")
    return REST, ""


def module_of(name: str) -> str:
    """Of what mypyc calls a function: as few of its module's last names as tell it from others, class, function."""
    parts = name.split("___")
    longest = max((count for count in (1, 2, 3) if "___".join(parts[:count]) in _modules()), default=1)
    return ".".join(parts[:longest])


@cache
def _modules() -> frozenset[str]:
    names = [path.relative_to(AGENT.parent).with_suffix("").parts for path in AGENT.rglob("*.py")]
    return frozenset("___".join(parts[-count:]) for parts in names for count in range(1, len(parts) + 1))


def samples_of(script: Iterable[str]) -> Counter[tuple[str, str]]:
    """Of `perf script -F ip,sym,dso` how many samples each layer and module has."""
    found: Counter[tuple[str, str]] = Counter()
    for line in script:
        match = _SAMPLE.match(line)
        if match is not None:
            found[layer_of(match["symbol"], match["object"])] += 1
    return found


def row(system: str, what: str, total_us: float, counted: Counter[tuple[str, str]]) -> Row:
    total = sum(counted.values()) or 1
    layers: dict[str, float] = {}
    modules: dict[str, float] = {}
    for (layer, module), count in counted.items():
        layers[layer] = layers.get(layer, 0.0) + total_us * count / total
        if module:
            modules[module] = modules.get(module, 0.0) + total_us * count / total
    return Row(system, what, total_us, sum(counted.values()), layers, modules)


def table(rows: Sequence[Row]) -> str:
    """Microseconds, a block for each kind of work, the largest modules of ours below."""
    blocks = []
    for what in dict.fromkeys(each.what for each in rows):
        of_it = [each for each in rows if each.what == what]
        layers = dict.fromkeys(ORDER) | {layer: None for each in of_it for layer in each.layers}
        lines = [f"{what + ', us':36}" + "".join(f"{each.system:>12}" for each in of_it)]
        lines.append(f"  {'all':34}" + "".join(f"{each.total_us:12.1f}" for each in of_it))
        for layer in layers:
            values = [each.layers.get(layer, 0.0) for each in of_it]
            if any(values):
                lines.append(f"  {layer:34}" + "".join(f"{value:12.1f}" for value in values))
        for each in of_it:
            for module, value in sorted(each.modules.items(), key=lambda item: -item[1])[:12]:
                lines.append(f"    {module:32}{value:12.1f}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


@contextmanager
def sampled(pids: Iterable[int], file: Path) -> Iterator[None]:
    """perf looks at the processes meanwhile. Raises BenchError where it cannot."""
    listed = ",".join(map(str, pids))
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(file), "-p", listed]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as perf:
        try:
            yield
        finally:
            perf.send_signal(signal.SIGINT)
            _, said = perf.communicate()
    # It ends as it was told to.
    if perf.returncode not in (0, -signal.SIGINT) or not file.exists():
        raise BenchError(f"perf record failed: {said.strip().splitlines()[-1:] or perf.returncode}")


def counted(file: Path) -> Counter[tuple[str, str]]:
    command = ["perf", "script", "-i", str(file), "-F", "ip,sym,dso"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"perf script failed: {done.stderr.strip()[-200:]}")
    return samples_of(done.stdout.splitlines())


def watched(system: System, workload: Workload) -> tuple[int, ...]:
    return system.second if workload.is_handshake else system.proxies


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench profile", description="where the CPU time of ztun and of Envoy goes, by layer"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3; samples add up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    parser.add_argument("--name", default="ztunprof", help="name of the lab, 10 characters at most")
    parser.set_defaults(check=False)
    options = parser.parse_args(argv)
    refuse_unfit(parser, options, 10)
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    if shutil.which("perf") is None:
        raise BenchError("there is no perf on this machine: apt-get install linux-perf")
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with Stage(options.name, tell, is_pinned=True) as stage, TemporaryDirectory() as directory:
        rounds = Rounds(stage, WARM_UP_S, LENGTH_S, tell)
        for workload, metric, what, unit in WORK:
            for system in stage.systems.values():
                if not system.proxies or not system.takes(workload.kind):
                    continue
                found: Counter[tuple[str, str]] = Counter()
                costs: list[float] = []
                for number in range(options.rounds):
                    file = Path(directory) / f"{system.name}-{workload.name}-{number}"
                    with sampled(watched(system, workload), file):
                        costs.append(rounds.measure(system, workload)[metric])
                    found += counted(file)
                rows.append(row(system.name, what, sorted(costs)[len(costs) // 2] * unit, found))
                tell(f"{what}, {system.name}: {rows[-1].samples} samples")
        stage.check_captured()
    figures = [
        {"system": each.system, "work": each.what, "us": each.total_us, "samples": each.samples}
        | {"layers": each.layers, "modules": each.modules}
        for each in rows
    ]
    return conclude(table(rows), {"rows": figures}, (), load, options, tell)
