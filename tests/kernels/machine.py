"""One run of a kernel in QEMU: boots it, has it run commands one after the other, and brings back what came of each.

Host and guest share two folders: the tree (read-only, at its own path, so that its .venv works) and `results`. The
guest writes there the exit status of each command and all of its output; what is not there when the machine has ended
was never reached: a panic, or the time was up.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

QEMU = "qemu-system-x86_64"
APPEND = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on rdinit=/init"
CLOCK = {"kvm": "tsc=reliable"}
"""By --accel, else EMULATED_CLOCK."""
EMULATED_CLOCK = "clocksource=hpet"
"""An emulated TSC ran four times too fast on a busy machine (two cores; a guest measures it once, at boot): time-outs
of minutes were over at once."""
INSTRUCTIONS = ("-icount", "shift=2,align=off,sleep=on")
"""An emulated machine of one core has its own time: 4 ns an instruction, and that of the world while it waits. What it
computes takes it as long on a busy host as on another, so no time-out of the product ends by what else runs there."""
POLL_S = 0.1
GUEST = """\
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis ZTUN_KERNELS_OWN_MACHINE=1
mkdir -p /run/netns /run/lock
ip link set lo up
uname -r > /results/release
cut -d' ' -f1 /proc/uptime > /results/booted
cd "$(cat /results/tree)"
{commands}
dmesg > /results/kernel.log
sync
echo o > /proc/sysrq-trigger
sleep 60
"""
COMMAND = """\
{command} > /results/{name}.log 2>&1 </dev/null
echo $? > /results/{name}.status
cut -d' ' -f1 /proc/uptime > /results/{name}.uptime
"""


@dataclass(frozen=True, slots=True)
class Boot:
    """What is booted: `without` are modules that are left out, `arguments` more words for the kernel."""

    kernel: Path
    initramfs: Path
    without: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """`accel`: of QEMU: tcg needs nothing of the host, kvm is the fast one. `environment`: of what it runs."""

    root: Path
    tree: Path
    accel: str = "tcg"
    cores: int = 1
    memory_mb: int = 2048
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def counts_instructions(self) -> bool:
        return self.accel == "tcg" and self.cores == 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one command. `status`: of its exit; None where the machine ended before it did."""

    status: int | None
    log: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one boot. `cpu_s`: of the host's processors, which tells more where it has others to serve;
    `warnings`: lines in which the kernel complained of itself."""

    release: str
    boot_s: float
    seconds: float
    cpu_s: float
    is_in_time: bool
    outcomes: Mapping[str, Outcome]
    console: str
    warnings: tuple[str, ...] = field(default=())


def run(
    machine: Machine, boot: Boot, commands: Mapping[str, Sequence[str]], results: Path, timeout_s: float
) -> Ran:
    """Boots, runs the commands by name in the tree, and powers off. `results` is emptied of what this writes."""
    results.mkdir(parents=True, exist_ok=True)
    for old in results.iterdir():
        if old.is_file():
            old.unlink()
    (results / "tree").write_text(f"{machine.tree}\n")
    given = "".join(f"export {name}={value}\n" for name, value in machine.environment)
    (results / "run").write_text(
        GUEST.format(commands=given + "".join(_command(*each) for each in commands.items()))
    )
    started_s = time.monotonic()
    with (results / "console.log").open("wb") as console:
        process = subprocess.Popen(
            command_line(machine, boot, results),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        is_in_time, cpu_s = _waited_for(process, started_s + timeout_s)
    return _read(results, commands, time.monotonic() - started_s, cpu_s, is_in_time)


def _waited_for(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[bool, float]:
    """Whether it ended before that, else it is ended; and what it has used of the host's processors, in seconds."""
    is_in_time = True
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return is_in_time, usage.ru_utime + usage.ru_stime
        if is_in_time and time.monotonic() > deadline_s:
            is_in_time = False
            process.kill()
        time.sleep(POLL_S)


def command_line(machine: Machine, boot: Boot, results: Path) -> list[str]:
    """Of QEMU."""
    without = [f"ztun.without={','.join(boot.without)}"] if boot.without else []
    return [
        *(
            QEMU,
            "-machine",
            "q35",
            "-accel",
            machine.accel,
            "-cpu",
            "host" if machine.accel == "kvm" else "max",
        ),
        *(INSTRUCTIONS if machine.counts_instructions else ()),
        *("-m", str(machine.memory_mb), "-smp", str(machine.cores), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(boot.kernel), "-initrd", str(boot.initramfs)),
        *("-append", " ".join([APPEND, CLOCK.get(machine.accel, EMULATED_CLOCK), *without, *boot.arguments])),
        *("-drive", f"file={machine.root},if=none,id=root,format=raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=root", "-device", "virtio-rng-pci"),
        *("-fsdev", f"local,id=tree,path={machine.tree},security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=tree,mount_tag=tree"),
        *("-fsdev", f"local,id=results,path={results},security_model=none,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=results,mount_tag=results"),
    ]


def complaints(kernel_log: str) -> tuple[str, ...]:
    """Lines of a kernel's log in which it finds a fault of its own."""
    signs = ("WARNING:", "BUG:", "Oops", "Call Trace", "rcu: INFO", "possible recursive locking")
    return tuple(line for line in kernel_log.splitlines() if any(sign in line for sign in signs))


def _command(name: str, command: Sequence[str]) -> str:
    return COMMAND.format(command=shlex.join(command), name=name)


def _read(results: Path, names: Mapping[str, object], seconds: float, cpu_s: float, is_in_time: bool) -> Ran:
    outcomes: dict[str, Outcome] = {}
    before_s = boot_s = float(_text(results / "booted") or 0)
    for name in names:
        status = _text(results / f"{name}.status")
        at_s = float(_text(results / f"{name}.uptime") or 0)
        outcomes[name] = Outcome(
            int(status) if status else None,
            _text(results / f"{name}.log"),
            round(max(0.0, at_s - before_s), 1),
        )
        before_s = at_s
    console, log = _text(results / "console.log"), _text(results / "kernel.log")
    release = _text(results / "release").strip()
    return Ran(
        release,
        boot_s,
        round(seconds, 1),
        round(cpu_s, 1),
        is_in_time,
        outcomes,
        console,
        complaints(log + console),
    )


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
