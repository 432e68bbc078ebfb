"""As the container of the DaemonSet: mounts of its own that hear of the machine's, read-only sysctls, few capabilities.

The capabilities are read out of the manifest, so that what it names is what the kernel side is made with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from redirect import netns
from redirect.pins import BPFFS, is_bpffs
from redirect.reconcile import Redirection

pytestmark = pytest.mark.kernel
DAEMON_SET = Path(__file__).parents[2] / "deploy" / "kubernetes" / "agent" / "daemonset.yaml"
CONTAINER = ("unshare", "--mount", "--propagation", "slave", "sh", "-ec")
CONTAINED = 'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'
PREPARE = """
import sys
from pathlib import Path
from redirect.reconcile import Redirection
redirection = Redirection(sys.argv[1], Path(sys.argv[2]))
print(redirection.prepare().compiled)
redirection.close()
"""


def capabilities() -> list[str]:
    spec = yaml.safe_load(DAEMON_SET.read_text())["spec"]["template"]["spec"]
    added: list[str] = spec["containers"][0]["securityContext"]["capabilities"]["add"]
    return [name.lower() for name in added]


@pytest.fixture
def instance() -> Iterator[str]:
    if not is_bpffs(BPFFS):
        pytest.skip(f"no bpffs at {BPFFS}: a node of Kubernetes has one (`mount -t bpf bpf {BPFFS}`)")
    name = f"hc-{os.getpid()}"
    node = netns.create(f"{name}-node")
    try:
        with netns.entered(node):
            try:
                yield name
            finally:
                Redirection(name, Path("/run") / name).uninstall()
    finally:
        netns.remove(f"{name}-node")


def prepared(instance: str, *without: str) -> subprocess.CompletedProcess[str]:
    kept = [f"+{name}" for name in capabilities() if name not in without]
    limited = ("setpriv", f"--bounding-set=-all,{','.join(kept)}")
    python = (sys.executable, "-c", PREPARE, instance, f"/run/{instance}")
    return subprocess.run(
        [*CONTAINER, CONTAINED, "sh", *limited, *python],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sysctl(instance: str) -> str:
    with netns.entered(netns.path_of(f"{instance}-net")):
        return Path("/proc/sys/net/ipv4/tcp_tw_reuse").read_text().strip()


def test_what_it_makes_outlives_it(instance: str) -> None:
    done = prepared(instance)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    names = [netns.path_of(f"{instance}-{side}") for side in ("pod", "net")]
    assert all(map(netns.is_namespace, names)), "the machine does not see the names of the namespaces"
    assert sysctl(instance) == "1", "the container's sysctls are read-only"
    before = [path.stat().st_ino for path in names]
    again = prepared(instance)
    assert (again.returncode, again.stdout) == (0, "False\n"), again.stderr
    assert [path.stat().st_ino for path in names] == before, "the next container takes over what is there"
    with netns.entered(names[1]):
        Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("0")
    assert prepared(instance).returncode == 0
    assert sysctl(instance) == "1"


@pytest.mark.parametrize("name", ["sys_admin", "net_admin", "sys_ptrace", "sys_chroot"])
def test_each_capability_is_needed(instance: str, name: str) -> None:
    assert prepared(instance, name).returncode, f"it does without {name.upper()}"
