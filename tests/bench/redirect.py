"""`scripts/bench redirect`: what many pods on one node cost the kernel side, and what as many cost by iptables.

Pods are network namespaces behind veths of a node that is one itself. They are located and captured by `redirect` as
an agent does it, with nobody to talk to: all of them, a turn that changes nothing, one that changes one of them, the
proof of all, and the memory of maps and process. With many at once programs are filters first, which become links
later: both are told. Beside it, for some of them, the rules and sets that istio-cni has; then what a new connection
costs by each way to a relay (`ways`). CPU time does not depend on what else a machine does; the time that passes does,
and waits for grace periods of RCU, whose length is told too. Needs root.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from agent.enroll.kernel import SETTLING_S
from redirect import host_addresses, netns, sys_bpf
from redirect.audit import by_maps
from redirect.desired import Desired
from redirect.layout import MAPS, Flag
from redirect.locate import locate
from redirect.place import Place
from redirect.reconcile import Redirection
from tests.bench import iptables, ways
from tests.bench.accounting import pss_bytes
from tests.bench.conclusion import conclude
from tests.bench.pods import address_of, node
from tests.bench.ways import LOAD_TIMEOUT_S, Compared

PODS, TURNS, BESIDE = 1000, 9, 40
ENROL_AT_MOST_S, IDLE_AT_MOST_S = 30.0, 0.1
EXPEDITED = Path("/sys/kernel/rcu_expedited")
BELOW = ((ways.BACK, ways.REDIRECT), (ways.BACK, ways.IN_POD), (ways.ONWARD, ways.IN_POD))
"""A new connection's CPU is to be below that of these. What a proxy of the node dials onward by REDIRECT has the node's
address, and skips the pod's own interface and with it NetworkPolicy: that it is cheaper is told, and not aimed at."""
PREFIX = f"bp{os.getpid()}"
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}.get(platform.machine(), 0)
_MEMBARRIER_GLOBAL = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """`wall_s` by the clock, `cpu_s` of this process and of what it ran."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """`grace_s`: one grace period; `rules` and `sets`: of one pod by iptables, None where it is not installed.

    `hasty`: a turn that changes nothing while all programs are filters still, and `settled`: until all are links.
    """

    pods: int
    located: Taken
    enrolled: Taken
    hasty: Taken
    settled: Taken
    idle: Taken
    one: Taken
    proved: Taken
    audited: Taken
    released: Taken
    grace_s: float
    maps_bytes: int
    process_bytes: int
    rules: Taken | None
    sets: Taken | None
    compared: Compared | None


def timed(work: Callable[[], object]) -> Taken:
    began_s, used_s = time.perf_counter(), _cpu_s()
    work()
    return Taken(time.perf_counter() - began_s, _cpu_s() - used_s)


def medians(taken: Iterable[Taken]) -> Taken:
    rows = list(taken)
    return Taken(statistics.median(r.wall_s for r in rows), statistics.median(r.cpu_s for r in rows))


def _cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def grace_s() -> float:
    """membarrier(MEMBARRIER_CMD_GLOBAL) is synchronize_rcu(), which whoever attaches a program waits for."""
    call = ctypes.CDLL(None).syscall
    return statistics.median(
        timed(lambda: call(_MEMBARRIER, _MEMBARRIER_GLOBAL, 0, 0)).wall_s for _ in range(TURNS)
    )


@contextmanager
def expedited(is_wanted: bool) -> Iterator[None]:
    """Shorter grace periods, for all of the machine, which interrupt all cores."""
    if not is_wanted:
        yield
        return
    before = EXPEDITED.read_text()
    EXPEDITED.write_text("1")
    try:
        yield
    finally:
        EXPEDITED.write_text(before)


def maps_bytes(redirection: Redirection) -> int:
    """What the kernel says the maps take."""
    total = 0
    for name in MAPS:
        fd = sys_bpf.obj_get(redirection.pins.generation / f"map_{name}")
        try:
            text = Path(f"/proc/self/fdinfo/{fd}").read_text()
        finally:
            os.close(fd)
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("memlock:"))
    return total


def rules(pods: list[Path], tell: Callable[[str], None]) -> Taken | None:
    """The rules of one pod."""

    def put(path: Path) -> None:
        with netns.entered(path):
            iptables.istio_rules()

    try:
        return medians(timed(partial(put, path)) for path in pods)
    except FileNotFoundError as error:
        tell(f"no rules beside it: {error}")
        return None


def sets(count: int, tell: Callable[[str], None]) -> Taken | None:
    """The entry of one pod in the set of the node, whose namespace this thread is in."""
    try:
        iptables.host_sets()
        return medians(
            timed(partial(iptables.add_to_set, address_of(number), f"pod-{number}"))
            for number in range(1, count + 1)
        )
    except (FileNotFoundError, RuntimeError) as error:
        tell(f"no sets beside it: {error}")
        return None


def measure(options: argparse.Namespace, tell: Callable[[str], None]) -> Result:
    with tempfile.TemporaryDirectory() as directory:
        with node(PREFIX, options.pods, has_bridge=options.bridge) as (place, pods):
            tell(f"{options.pods} pods are there")
            with netns.entered(place), expedited(options.expedited):
                found = captured(Path(directory), pods, tell)
        try:
            return replace(found, compared=ways.compare(PREFIX, Path(directory), tell))
        except FileNotFoundError as error:
            tell(f"nothing compared: {error}")
            return found


def captured(directory: Path, pods: list[Path], tell: Callable[[str], None]) -> Result:
    before = pss_bytes([os.getpid()])
    redirection = Redirection(PREFIX, directory, load_timeout_s=LOAD_TIMEOUT_S)
    redirection.prepare()
    try:
        places: list[Place] = []
        located = timed(lambda: places.extend(locate(netns=path) for path in pods))
        refused = [place.refusal for place in places if place.refusal]
        assert not refused, refused[0]
        wanted = Desired(tuple(place.desired() for place in places), host_addresses.local())
        enrolled = timed(lambda: redirection.apply(wanted))
        tell("all are captured")

        def idle() -> list[str]:
            return redirection.apply(desired(places))

        def prove() -> None:
            found = [
                finding for finding in redirection.prove(desired(places)) if "listener" not in str(finding)
            ]
            assert not found, found[0]

        def settle() -> None:
            redirection.prove(desired(places))
            while redirection.settling.left:
                redirection.settling.turn(SETTLING_S)

        hasty = timed(idle)
        settled = timed(settle)
        tell("all are links")
        turn = medians(timed(idle) for _ in range(TURNS))
        proof = medians(timed(prove) for _ in range(TURNS))
        audit = medians(timed(lambda: by_maps(redirection)) for _ in range(TURNS))
        one = medians(
            timed(partial(change, redirection, wanted, number)) for number in range(min(TURNS, len(pods)))
        )
        maps, process = maps_bytes(redirection), pss_bytes([os.getpid()]) - before
        beside = rules(pods[:BESIDE], tell), sets(min(BESIDE, len(pods)), tell)
        released = timed(lambda: redirection.apply(Desired((), wanted.host_addresses)))
        figures = located, enrolled, hasty, settled, turn, one, proof, audit, released
        return Result(len(pods), *figures, grace_s(), maps, process, *beside, None)
    finally:
        redirection.uninstall()
        redirection.close()


def desired(places: list[Place]) -> Desired:
    """Made anew each time, as by an agent: with the addresses of the node as they are now."""
    return Desired(tuple(place.desired() for place in places), host_addresses.local())


def change(redirection: Redirection, wanted: Desired, number: int) -> None:
    """As an agent has one pod treated in another way: it alone is looked at."""
    pod = replace(wanted.pods[number], flags=Flag.ENROLLED | Flag.HONEST)
    pods = (*wanted.pods[:number], pod, *wanted.pods[number + 1 :])
    redirection.apply(Desired(pods, wanted.host_addresses), only=[pod.ifindex])


def misses(of: Result) -> list[str]:
    found = []
    enrol_s = of.located.wall_s + of.enrolled.wall_s
    if enrol_s > ENROL_AT_MOST_S:
        found.append(f"{enrol_s:.1f} s to enrol all, target {ENROL_AT_MOST_S:g}")
    for what, taken in (
        ("turn that changes nothing", of.idle),
        ("proof", of.proved),
        ("look by `ztun audit`", of.audited),
    ):
        if taken.cpu_s > IDLE_AT_MOST_S:
            found.append(f"{taken.cpu_s * 1000:.0f} ms of CPU for a {what}, target {IDLE_AT_MOST_S * 1000:g}")
    if of.compared is not None:
        found += [
            f"a new connection ({kind}) takes {of.compared.over[kind][rival]:.3f} of the CPU of {rival}, target below 1"
            for kind, rival in BELOW
            if of.compared.over[kind][rival] >= 1
        ]
    return found


def table(of: Result) -> str:
    rows = [
        _row("locate all", of.located, of.pods),
        _row("capture all", of.enrolled, of.pods),
        _row("a turn like that, filters still", of.hasty, of.pods),
        _row("make links of the filters", of.settled, of.pods),
        _row("a turn that changes nothing", of.idle, of.pods),
        _row("a turn that changes one, alone", of.one),
        _row("a proof of all", of.proved, of.pods),
        _row("`ztun audit` without an agent", of.audited, of.pods),
        _row("release all", of.released, of.pods),
    ]
    for name, each in (
        ("iptables in a pod, both families", of.rules),
        ("ipset of the node, one family", of.sets),
    ):
        if each is not None:
            rows.append(_row(name, Taken(each.wall_s * of.pods, each.cpu_s * of.pods), of.pods))
    lines = [f"{'':<34}{'all':>12}{'its CPU':>12}{'CPU of each':>14}", *rows, ""]
    lines.append(f"a grace period, of which each pod has two to become links: {of.grace_s * 1000:.1f} ms")
    lines.append(
        f"memory: of the maps {of.maps_bytes / 1e6:.1f} MB, of the process {of.process_bytes / 1e6:.1f} MB "
        f"({of.process_bytes / of.pods / 1e3:.1f} kB for each)"
    )
    return "\n".join([*lines, *_compared(of.compared)])


def _row(name: str, taken: Taken, pods: int = 0) -> str:
    each = f"{taken.cpu_s * 1e6 / pods:,.0f} us" if pods else "-"
    return f"{name:<34}{_time(taken.wall_s):>12}{_time(taken.cpu_s):>12}{each:>14}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _compared(of: Compared | None) -> list[str]:
    if of is None:
        return []
    lines = []
    for kind, words in ((ways.BACK, "answered by a relay"), (ways.ONWARD, "relayed")):
        cpu_us, over = of.cpu_us[kind], of.over[kind]
        lines += ["", f"{'a new connection, ' + words:<38}{'CPU':>12}{'more':>12}{'ztun over it':>14}"]
        for name, used_us in cpu_us.items():
            ratio = f"{over[name]:.3f}" if name in over else "-"
            lines.append(f"{name:<38}{used_us:>9.1f} us{used_us - cpu_us[ways.NONE]:>9.1f} us{ratio:>14}")
    lines += ["", f"{'program':<34}{'each run':>12}{'runs':>12}{'a connection':>14}"]
    for each in of.programs:
        taken_us = each.ns * each.runs / 1000
        lines.append(f"{each.name:<34}{each.ns:>9.0f} ns{each.runs:>12.1f}{taken_us:>11.2f} us")
    return lines


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench redirect", description="what many pods on one node cost the kernel side"
    )
    parser.add_argument("--pods", type=int, default=PODS, metavar="N", help=f"default {PODS}")
    parser.add_argument("--bridge", action="store_true", help="the pods are ports of a bridge, not routed")
    parser.add_argument(
        "--expedited", action="store_true", help=f"with {EXPEDITED} on while pods are captured and released"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    options = parser.parse_args(argv)
    if not 1 <= options.pods <= (1000 if options.bridge else 8000):
        parser.error(
            "--pods: 1 to 8000, as many as the maps have room for, and with --bridge 1000, as a bridge has"
        )
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    found = measure(options, tell)
    head = f"{found.pods} pods on one node; iptables and ipset: of {min(BESIDE, found.pods)}, times as many"
    return conclude(f"{head}\n\n{table(found)}", asdict(found), misses(found), load, options, tell)
