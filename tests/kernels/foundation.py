"""What the agent makes of a kernel: probed, compiled, verified, pinned, attached, looked at, a pod captured, its SYNs
told of whatever the time of day, taken out.

python -m tests.kernels.foundation FILE     one fact a line, and all of them as JSON in the file

The least that tells whether ztun runs on a kernel, in seconds; without the libraries of the tests, which a machine that
is emulated takes long to load.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from redirect import features, host_addresses, netns
from redirect.desired import Desired
from redirect.errors import LoaderError
from redirect.findings import Part
from redirect.locate import locate
from redirect.reconcile import Redirection
from tests.kernels import watched
from tests.kernels.patience import LOAD_TIMEOUT_S, factor

INSTANCE = "kernels"
WORDS = 6000
"""Of the verifier's, from their end."""
POD = "kernels-behind"
MAC = "02:00:00:00:02:50"
NETKIT = (
    f"ip netns add {POD}",
    "ip link add kernels0 type netkit",
    f"ip link set kernels0 netns {POD}",
    f"ip -n {POD} addr add 10.250.0.2/32 dev kernels0",
    f"ip -n {POD} link set kernels0 up",
)
VETH = (
    f"ip netns add {POD}",
    f"ip link add kernels1 type veth peer name eth0 netns {POD}",
    f"ip -n {POD} addr add 10.250.0.3/32 dev eth0",
    f"ip -n {POD} link set eth0 up",
    f"ip link set kernels1 address {MAC} up",
    "ip route add 10.250.0.3/32 dev kernels1",
    f"ip -n {POD} route add default dev eth0",
    f"ip -n {POD} neigh add {watched.FAR[0]} lladdr {MAC} dev eth0",
)


def main() -> int:
    file = Path(sys.argv[1])
    facts: list[dict[str, object]] = []

    def fact(holds: bool, text: str) -> None:
        facts.append({"holds": holds, "text": text})
        sys.stdout.write(f"{'ok  ' if holds else 'FAIL'} {text}\n")

    def watch(pod: Path) -> None:
        for each in watched.told(redirection.pins.generation, pod):
            fact(*each)

    redirection = Redirection(INSTANCE, Path(tempfile.mkdtemp()), load_timeout_s=LOAD_TIMEOUT_S * factor())
    try:
        prepared = redirection.prepare()
        fact(prepared.compiled, "the programs were compiled, and the verifier takes each")
        fact(True, f"limited: {'; '.join(prepared.limits) or 'nothing'}")
        fact(
            features.has_tcx() or any("clsact" in limit for limit in prepared.limits),
            "attached by tcx, or by clsact and said",
        )
        fact(*netkit())
        broken = captured(redirection, watch)
        fact(not broken, f"a pod is captured, proved whole and let go: {broken or 'all of it'}")
    except LoaderError:
        sys.stdout.write(redirection.pins.loader_record.read_text()[-WORDS:])
        raise
    finally:
        removed = redirection.uninstall()
        left = [path.name for path in redirection.private_namespaces if netns.is_namespace(path)]
        fact(bool(removed) and not left, f"taken out: {len(removed)} things; left: {left or 'nothing'}")
        file.write_text(json.dumps(facts))
    return 0 if all(each["holds"] for each in facts) else 1


def netkit() -> tuple[bool, str]:
    """Whether a pod behind one, as Cilium makes them from Linux 6.7 on, is refused with what to do; and the refusal."""
    try:
        for line in NETKIT:
            done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
            if "Unknown device type" in done.stderr:
                return True, "netkit: this kernel has none"
            done.check_returncode()
        refusal = locate(netns=netns.path_of(POD)).refusal
    finally:
        subprocess.run(["ip", "netns", "del", POD], capture_output=True, check=False)
    is_told = "of kind netkit, not a veth" in refusal and "bpf.datapathMode=veth" in refusal
    return is_told, f"a pod behind a netkit: {refusal}"


def captured(redirection: Redirection, watch: Callable[[Path], None] = lambda _: None) -> list[str]:
    """Of a pod behind a veth that is captured, looked at, watched and let go: what is not as it should be."""
    try:
        for line in VETH:
            subprocess.run(line.split(), check=True)
        pod = netns.path_of(POD)
        place = locate(netns=pod)
        if place.refusal:
            return [place.refusal]
        wanted = Desired((place.desired(),), host_addresses.local())
        redirection.apply(wanted)
        # Nobody serves here.
        found = [str(each) for each in redirection.prove(wanted) if each.part != Part.LISTENER]
        watch(pod)
        redirection.apply(Desired((), wanted.host_addresses))
        return found
    finally:
        subprocess.run(["ip", "netns", "del", POD], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
