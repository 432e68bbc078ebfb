"""`scripts/bench redirect`: what many pods on one node cost the kernel side, and what as many cost by iptables.

Pods are network namespaces behind veths of a node that is one itself. They are located and captured by `redirect` as
an agent does it, with nobody to talk to: the time for all of them, for a turn that changes nothing, for one that
changes one of them, for the proof of all, and the memory of maps and process. Beside it, for some of them, the rules
that istio-cni puts into a pod (by iptables-restore, IPv4 and IPv6). Needs root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pyroute2 import IPRoute

from redirect import host_addresses, netns, sys_bpf
from redirect.desired import Desired
from redirect.layout import MAPS, Flag
from redirect.locate import locate
from redirect.place import Place
from redirect.reconcile import Redirection
from tests.bench.accounting import pss_bytes
from tests.bench.conclusion import conclude

PODS, TURNS, BESIDE = 1000, 9, 40
ENROL_AT_MOST_S, IDLE_AT_MOST_S = 30.0, 0.1
PREFIX = f"bp{os.getpid()}"
# The rules of a pod, as istio-cni has them in the pod itself: marks and redirects for inbound and outbound, and DNS.
RULES = """\
*mangle
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -s {probe} -p tcp -m tcp -j ACCEPT
-A ISTIO_PRERT ! -d {loopback} -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -d {probe} -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT ! -d {loopback} -p tcp -m tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d {loopback} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
"""
FAMILIES = {
    "iptables-restore": {"probe": "169.254.7.127/32", "loopback": "127.0.0.1/32"},
    "ip6tables-restore": {"probe": "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128", "loopback": "::1/128"},
}


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds, but for memory in bytes; `beside_s`: of one pod, None where there is no iptables."""

    pods: int
    located_s: float
    enrolled_s: float
    idle_s: float
    one_s: float
    proved_s: float
    released_s: float
    maps_bytes: int
    process_bytes: int
    beside_s: float | None


def address_of(number: int) -> str:
    return f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


@contextmanager
def node(count: int) -> Iterator[tuple[Path, list[Path]]]:
    """A node, and so many pods on it, each behind a veth with a route to its address."""
    made = [f"{PREFIX}-n", *(f"{PREFIX}-{number}" for number in range(count))]
    try:
        paths = [netns.ensure(name) for name in made]
        with netns.entered(paths[0]), IPRoute() as ip:
            ip.link("set", index=1, state="up")
            ip.addr("add", index=1, address="10.63.0.1", prefixlen=32)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            for number, path in enumerate(paths[1:], 1):
                add_pod(ip, number, path)
        yield paths[0], paths[1:]
    finally:
        for name in made:
            netns.remove(name)


def add_pod(ip: IPRoute, number: int, path: Path) -> None:
    """`ip link add vethN type veth peer name eth0 netns POD`, addressed as by a CNI that routes."""
    device = f"bv{number}"
    with path.open("rb") as namespace:
        ip.link("add", ifname=device, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace.fileno()})
    (index,) = ip.link_lookup(ifname=device)
    ip.addr("add", index=index, address="169.254.1.1", prefixlen=32)
    ip.link("set", index=index, state="up")
    with netns.entered(path), IPRoute() as inside:
        (eth0,) = inside.link_lookup(ifname="eth0")
        inside.addr("add", index=eth0, address=address_of(number), prefixlen=32)
        inside.link("set", index=eth0, state="up")
        inside.route("add", dst="169.254.1.1/32", oif=eth0, scope=253)
        inside.route("add", dst="default", gateway="169.254.1.1", oif=eth0)
    ip.route("add", dst=f"{address_of(number)}/32", oif=index, scope=253)


def timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


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


def rules_s(pods: list[Path]) -> float | None:
    """Seconds for the rules of one pod, both families."""
    taken = []
    for path in pods:
        began_s = time.perf_counter()
        for command, values in FAMILIES.items():
            try:
                with netns.entered(path):
                    subprocess.run(
                        [command, "--noflush"], input=RULES.format(**values), text=True, check=True
                    )
            except FileNotFoundError:
                return None
        taken.append(time.perf_counter() - began_s)
    return statistics.median(taken)


def measure(count: int, tell: Callable[[str], None]) -> Result:
    with tempfile.TemporaryDirectory() as directory, node(count) as (place, pods):
        tell(f"{count} pods are there")
        with netns.entered(place):
            return captured(Path(directory), pods, tell)


def captured(directory: Path, pods: list[Path], tell: Callable[[str], None]) -> Result:
    before = pss_bytes([os.getpid()])
    redirection = Redirection(PREFIX, directory)
    redirection.prepare()
    try:
        places: list[Place] = []
        located_s = timed(lambda: places.extend(locate(netns=path) for path in pods))
        refused = [place.refusal for place in places if place.refusal]
        assert not refused, refused[0]
        wanted = Desired(tuple(place.desired() for place in places), host_addresses.local())
        enrolled_s = timed(lambda: redirection.apply(wanted))
        tell("all are captured")
        idle_s = statistics.median(timed(lambda: redirection.apply(wanted)) for _ in range(TURNS))
        proved_s = statistics.median(timed(lambda: redirection.prove(wanted)) for _ in range(TURNS))
        assert not [finding for finding in redirection.prove(wanted) if "listener" not in str(finding)]
        one_s = statistics.median(
            timed(partial(change, redirection, wanted, number)) for number in range(TURNS)
        )
        maps, process = maps_bytes(redirection), pss_bytes([os.getpid()]) - before
        beside_s = rules_s(pods[:BESIDE])
        released_s = timed(lambda: redirection.apply(Desired((), wanted.host_addresses)))
        figures = located_s, enrolled_s, idle_s, one_s, proved_s, released_s
        return Result(len(pods), *figures, maps, process, beside_s)
    finally:
        redirection.uninstall()
        redirection.close()


def change(redirection: Redirection, wanted: Desired, number: int) -> None:
    """As an agent has one pod treated in another way: it alone is looked at."""
    pod = replace(wanted.pods[number], flags=Flag.ENROLLED | Flag.HONEST)
    pods = (*wanted.pods[:number], pod, *wanted.pods[number + 1 :])
    redirection.apply(Desired(pods, wanted.host_addresses), only=[pod.ifindex])


def misses(of: Result) -> list[str]:
    found = []
    if of.located_s + of.enrolled_s > ENROL_AT_MOST_S:
        found.append(f"{of.located_s + of.enrolled_s:.1f} s to enrol all, target {ENROL_AT_MOST_S:g}")
    if of.idle_s > IDLE_AT_MOST_S:
        found.append(
            f"{of.idle_s * 1000:.0f} ms for a turn that changes nothing, target {IDLE_AT_MOST_S * 1000:g}"
        )
    return found


def table(of: Result) -> str:
    each_ms = 1000 / of.pods
    rows = [
        ("locate all", f"{of.located_s:.2f} s", f"{of.located_s * each_ms:.2f} ms"),
        ("capture all", f"{of.enrolled_s:.2f} s", f"{of.enrolled_s * each_ms:.2f} ms"),
        ("a turn that changes nothing", f"{of.idle_s * 1000:.1f} ms", f"{of.idle_s * each_ms * 1000:.1f} us"),
        ("a turn that changes one, alone", f"{of.one_s * 1000:.1f} ms", "-"),
        ("a proof of all", f"{of.proved_s * 1000:.1f} ms", f"{of.proved_s * each_ms * 1000:.1f} us"),
        ("release all", f"{of.released_s:.2f} s", f"{of.released_s * each_ms:.2f} ms"),
        ("memory of the maps", f"{of.maps_bytes / 1e6:.1f} MB", "-"),
        (
            "memory of the process",
            f"{of.process_bytes / 1e6:.1f} MB",
            f"{of.process_bytes / of.pods / 1e3:.1f} kB",
        ),
    ]
    if of.beside_s is not None:
        rows.append(
            (
                "iptables in a pod, both families",
                f"{of.beside_s * of.pods:.1f} s",
                f"{of.beside_s * 1000:.1f} ms",
            )
        )
    return "\n".join([f"{'':<34}{'all':>12}{'each':>12}", *(f"{a:<34}{b:>12}{c:>12}" for a, b, c in rows)])


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench redirect", description="what many pods on one node cost the kernel side"
    )
    parser.add_argument("--pods", type=int, default=PODS, metavar="N", help=f"default {PODS}")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure")
    options = parser.parse_args(argv)
    if not 1 <= options.pods <= 8000:
        parser.error("--pods: 1 to 8000, as many as the maps have room for")
    return options


def main(argv: list[str], tell: Callable[[str], None]) -> int:
    options = arguments(argv)
    load = os.getloadavg()[0]
    found = measure(options.pods, tell)
    head = f"{found.pods} pods on one node; the last line: of {min(BESIDE, found.pods)} pods"
    return conclude(f"{head}\n\n{table(found)}", asdict(found), misses(found), load, options, tell)
