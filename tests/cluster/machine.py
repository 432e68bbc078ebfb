"""A machine made of namespaces: processes, mounts and network of its own, a root that is a copy on write of this one's.

Its first process is what keeps it: when that is killed the kernel ends all others, and mounts, pins and interfaces go
with them, as when a plug is pulled. What is on its disk (`/var`, `/etc`) is there after the next `boot`, what is in
`/run` is not. Control groups are this machine's, below a directory of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_S = 60.0
ENDS_WITH_US = ("setpriv", "--pdeathsig=KILL")
NAMESPACES = ("--mount", "--net", "--pid")
BOOT = r"""
set -e
mount --make-rprivate /
mkdir -p "$disk/upper" "$disk/work" "$disk/root" "$disk/containerd"
mount -t overlay overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cd "$disk/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs tmpfs run
mkdir -p run/netns run/lock var/lib/containerd opt/cni/bin etc/cni/net.d mnt
mount --bind "$store" var/lib/containerd
mount -t tmpfs tmpfs mnt
mkdir mnt/old
pivot_root . mnt/old
cd /
umount -l /mnt/old
umount /mnt
mount --make-rshared /
ip link set lo up
echo up > /run/booted
while :; do sleep 3600 & wait $!; done
"""


class Machine:
    """`directory`: where its disk is; a tmpfs is mounted there. `store`: for images, which want a disk."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.disk, self.store, self.logs = (self.directory / part for part in ("disk", "store", "logs"))
        for part in (self.disk, self.store, self.logs):
            part.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "tmpfs", self.disk)
        self.cgroup = f"ztun-{os.getpid()}-{name}"
        self._init: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self.pid = 0

    def boot(self) -> None:
        for controller in CGROUPS.iterdir():
            if controller.is_dir() and not controller.is_symlink():
                (controller / self.cgroup).mkdir(exist_ok=True)
        # A group of cpuset takes nobody before it has cores.
        cpuset = CGROUPS / "cpuset"
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (cpuset / name).exists():
                (cpuset / self.cgroup / name).write_text((cpuset / name).read_text())
        with open(self.logs / "boot.log", "ab") as log:
            # It ends with this process, however that ends.
            self._init = subprocess.Popen(
                [*ENDS_WITH_US, "unshare", *NAMESPACES, "--fork", "--kill-child=KILL", "bash", "-c", BOOT],
                env=os.environ | {"disk": str(self.disk), "store": str(self.store)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self.pid = int((children.read_text() or "0").split()[0])
            if self.pid and Path(f"/proc/{self.pid}/root/run/booted").exists():
                return
            if self._init.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name} does not boot: {(self.logs / 'boot.log').read_text()}")
            time.sleep(0.02)

    def halt(self) -> None:
        """Pull the plug."""
        if self._init is None:
            return
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._init.kill()
        self._init.wait()
        # What was started in it has ended with its first process.
        while self._started:
            self._started.pop().wait()
        self._init, self.pid = None, 0

    def remove(self) -> None:
        self.halt()
        run("umount", "-l", self.disk, check=False)
        deadline_s = time.monotonic() + PATIENCE_S
        for controller in CGROUPS.iterdir():
            while (controller / self.cgroup).is_dir():
                for path in sorted((controller / self.cgroup).rglob("*/"), reverse=True):
                    _rmdir(path)
                _rmdir(controller / self.cgroup)
                if time.monotonic() > deadline_s:
                    print(f"left behind: {controller / self.cgroup}")
                    break

    def inside(self, *command: object) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--", *map(str, command)]

    def run(self, *command: object, check: bool = True, text: str | None = None) -> str:
        return run(*self.inside(*command), check=check, text=text)

    def start(self, name: str, *command: object) -> None:
        """A process that lives as long as the machine does, unless it is killed."""
        noted = ("sh", "-c", f'echo $$ >/run/{name}.pid; exec "$@"', "sh", *command)
        with open(self.logs / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                self.inside(*noted),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._started.append(process)

    def kill(self, name: str) -> None:
        """End what was started under a name, at once."""
        self.run("kill", "-KILL", self.run("cat", f"/run/{name}.pid").strip())

    def write(self, path: str, content: str) -> None:
        target = Path(f"/proc/{self.pid}/root{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def run(*command: object, check: bool = True, text: str | None = None) -> str:
    """What a command says. Raises RuntimeError with what it says when it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, input=text, timeout=300)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        time.sleep(0.01)  # its processes are still going


def joined(machines: Sequence[Machine], network: str = "192.168.77") -> None:
    """A wire between all of them: a bridge on the first, which has .1; addresses in order, the first is the gateway."""
    first, *others = machines
    first.run("ip", "link", "add", "wire", "type", "bridge")
    first.run("ip", "addr", "add", f"{network}.1/24", "dev", "wire")
    first.run("ip", "link", "set", "wire", "up")
    first.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for number, machine in enumerate(others, 1):
        plugged_in(first, machine, number, network)


def plugged_in(first: Machine, machine: Machine, number: int, network: str = "192.168.77") -> None:
    port = f"port{number}"
    # Not by `first.run`: the machines do not see each other's processes.
    ends = ("add", port, "type", "veth", "peer", "name", "uplink", "netns", machine.pid)
    run("nsenter", f"--target={first.pid}", "--net", "--", "ip", "link", *ends)
    first.run("ip", "link", "set", port, "master", "wire", "up")
    machine.run("ip", "addr", "add", f"{network}.{10 + number}/24", "dev", "uplink")
    machine.run("ip", "link", "set", "uplink", "up")
    machine.run("ip", "route", "add", "default", "via", f"{network}.1")
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
