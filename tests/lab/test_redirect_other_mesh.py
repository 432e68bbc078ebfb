"""What another mesh leaves in a pod is found, by netlink alone, and exactly that is taken away again. Real rules."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from redirect import netns, nf_tables, other_mesh, xtables
from redirect.other_mesh import CannotClean, OtherMesh

pytestmark = pytest.mark.kernel

# As the ambient mode of Istio's CNI agent writes them, by iptables of either kind.
AMBIENT = """
-t mangle -N ISTIO_PRERT
-t mangle -A PREROUTING -j ISTIO_PRERT
-t mangle -A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-t nat -N ISTIO_OUTPUT
-t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT
-t nat -A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-t nat -A ISTIO_OUTPUT -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-t nat -A OUTPUT -p tcp --dport 7 -j REDIRECT --to-ports 15001
"""
OWN = ("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "REDIRECT", "--to-ports", "8080")
"""An application's own redirection: nobody else's business."""
NATIVE = """
table inet istio-ambient-nat {
  chain output { type nat hook output priority -100; tcp dport 1-65535 redirect to :15001; }
}
table inet app {
  chain output {
    type nat hook output priority -100
    tcp dport 99 redirect to :15001
    tcp dport 98 redirect to :98
  }
}
"""


@pytest.fixture
def pod() -> Iterator[Path]:
    name = f"ho-{os.getpid()}"
    try:
        yield netns.ensure(name)
    finally:
        netns.remove(name)


def inside(pod: Path, *command: str, text: str | None = None) -> str:
    with netns.entered(pod):
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def find(pod: Path) -> OtherMesh:
    with netns.entered(pod):
        return other_mesh.find()


def clean(pod: Path) -> None:
    with netns.entered(pod):
        other_mesh.clean(other_mesh.find())


def mess(pod: Path, iptables: str) -> None:
    if shutil.which(iptables) is None:
        pytest.skip(f"{iptables} is not installed")
    for line in AMBIENT.strip().splitlines():
        inside(pod, iptables, *line.split())
    inside(pod, iptables, *OWN)


@pytest.mark.parametrize("iptables", ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])
def test_rules_of_istio_are_found_and_taken_away_and_nothing_else(pod: Path, iptables: str) -> None:
    mess(pod, iptables)
    assert str(find(pod)) == ("iptables chains ISTIO_OUTPUT, ISTIO_PRERT; redirections to port 15001")
    clean(pod)
    assert not find(pod)
    left = inside(pod, iptables, "-t", "nat", "-S") + inside(pod, iptables, "-t", "mangle", "-S")
    rules = [line for line in left.splitlines() if line.startswith("-A")]
    assert rules == [" ".join(("-A", "PREROUTING", "-p", "tcp", "-m", "tcp", *OWN[6:]))]


def test_tables_of_nftables_too(pod: Path) -> None:
    inside(pod, "nft", "-f", "-", text=NATIVE)
    assert str(find(pod)) == ("nf_tables tables istio-ambient-nat; redirections to port 15001")
    clean(pod)
    assert not find(pod)
    left = inside(pod, "nft", "list", "ruleset")
    assert "istio" not in left and "redirect to :98" in left


def test_routing_by_the_mark_goes_with_the_rules(pod: Path) -> None:
    inside(pod, "ip", "link", "set", "lo", "up")
    inside(pod, "ip", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100")
    inside(pod, "ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
    inside(pod, "ip", "rule", "add", "fwmark", "0x7", "lookup", "101")
    clean(pod)
    rules = inside(pod, "ip", "rule")
    assert "0x111" not in rules and "0x7" in rules
    assert inside(pod, "ip", "route", "show", "table", "all", "type", "local").count("default") == 0


def test_a_proxy_that_listens_is_found_and_cannot_be_taken_away(pod: Path) -> None:
    with netns.entered(pod):
        sock = socket.create_server(("0.0.0.0", 15006))
    with sock:
        assert str(find(pod)) == "a proxy that listens on port 15006"
        with pytest.raises(CannotClean, match="sidecar"):
            clean(pod)


def test_an_ordinary_pod_has_nothing_and_no_table_is_made_by_looking(pod: Path) -> None:
    assert not find(pod)
    with netns.entered(pod):
        assert (nf_tables.chains(), xtables.tables()) == ([], [])
