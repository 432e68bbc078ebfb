"""What the README shows is what happens: the output of the quickstart, and the commands for a bare machine.

The bare machine is a set of namespaces with its own /run, /etc, /var/lib and bpffs, with nothing of ztun on it. It ends
with its first process, and takes everything along.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.lab.agents import ZTUN

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MACHINE = """\
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc
rm -rf /run/etc/ztun
mount --bind /run/etc /etc
mount -t tmpfs tmpfs /var/lib
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
"""
LEFT = """
wait
echo left: $(ip netns list | cut -d ' ' -f 1) $(ls /sys/fs/bpf | grep ztun)
"""
"""After the last command every process has to end, or this never comes."""
SAYS = (
    r"/var/lib/ztun/tokens/\S+",
    r"READY gen=\w+ pods=0/0 .*",
    r"enrolled demo/web as spiffe://cluster\.local/ns/demo/sa/default on veth-web \(10\.99\.0\.2\)",
    r"READY gen=\w+ pods=1/1 .*",
    r"pods +hash +1 +16384",
    r"un-enrolled demo/web",
    r"the agent stops",
    r"nothing of instance ztun is left",
    r"left: web",
)
"""Lines of stdout, in this order, others between them."""

pytestmark = pytest.mark.kernel


VARYING = re.compile(r"(?<==)[0-9a-f]{4}\b|([0-9a-f]{2}:){5}[0-9a-f]{2}|\d+(\.\d+)?")
"""A generation, a MAC, any number: what differs from run to run."""


def blocks(section: str) -> list[str]:
    """What a section of the README has between its fences."""
    _, found, rest = (ROOT / "README.md").read_text().partition(f"\n## {section}\n")
    assert found, f"the README has no section {section!r}"
    return BLOCK.findall(rest.partition("\n## ")[0])


def lasting(lines: list[str]) -> list[str]:
    """The lines without what varies, and without the widths that follow from it."""
    return [" ".join(VARYING.sub("#", line).split()) for line in lines]


def test_the_quickstart_prints_what_the_readme_shows() -> None:
    _, sample, _ = blocks("Five minutes")
    name = f"hq{os.getpid()}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agent.lab.quickstart", "--name", name],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        subprocess.run([*ZTUN, "lab", "down", "--name", name], capture_output=True, check=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    # The first line is the one of scripts/quickstart, which installs.
    shown = done.stdout.replace(name, "ztunlab").splitlines()
    assert lasting(shown) == lasting(sample.splitlines()[1:])


def test_the_commands_for_a_bare_machine_do_what_the_readme_says() -> None:
    pod, mesh = blocks("Without the lab: a bare machine")
    script = f'{MACHINE}PATH="{Path(sys.executable).parent}:$PATH"\n{pod}{mesh}{LEFT}'
    unshare = ["unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*unshare, "bash", "-c", script], capture_output=True, text=True, timeout=280, check=False, cwd="/"
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    lines = iter(done.stdout.splitlines())
    for wanted in SAYS:
        assert any(re.fullmatch(wanted, line) for line in lines), (
            f"no line {wanted!r} in its turn:\n{done.stdout}"
        )
