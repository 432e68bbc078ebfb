"""What another mesh leaves in a pod is found, by netlink alone, and exactly that is taken away again. Real rules."""

from __future__ import annotations

import os
import shlex
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


# As the init container of Istio's sidecars writes them, with two jumps behind each other; Consul's, which has a port of
# its own for what comes in.
SIDECAR = """
*nat
:ISTIO_INBOUND -
:ISTIO_OUTPUT -
:ISTIO_REDIRECT -
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -p udp -m udp --dport 53 -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN
-A ISTIO_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
CONSUL = """
*nat
:CONSUL_PROXY_INBOUND -
:CONSUL_PROXY_IN_REDIRECT -
-A PREROUTING -p tcp -j CONSUL_PROXY_INBOUND
-A CONSUL_PROXY_INBOUND -p tcp -j CONSUL_PROXY_IN_REDIRECT
-A CONSUL_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports 20000
COMMIT
"""
# An application's own: before and behind what leads to theirs.
FIRST, LAST = (
    f"*nat\n:APP{port} -\n-A OUTPUT -p tcp -m tcp --dport {port} -j REDIRECT --to-ports 8080\n"
    f'-A PREROUTING -p tcp -m comment --comment "port {port}, of the app" -j APP{port}\nCOMMIT\n'
    for port in (81, 82)
)


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


@pytest.mark.parametrize("theirs", [SIDECAR, CONSUL], ids=["istio", "consul"])
@pytest.mark.parametrize("iptables", ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])
def test_rules_of_sidecars_go_and_those_around_them_stay_in_order(
    pod: Path, iptables: str, theirs: str
) -> None:
    def saved() -> list[str]:
        lines = inside(pod, f"{iptables}-save", "-t", "nat").splitlines()
        return sorted(line.partition("[")[0] for line in lines if line[:1] == ":") + [
            line for line in lines if line[:2] == "-A"
        ]

    for rules in (FIRST, LAST):
        inside(pod, f"{iptables}-restore", "--noflush", text=rules)
    assert not find(pod)
    before = saved()
    inside(pod, f"{iptables}-restore", "--noflush", text=theirs)
    for rule in before:
        if rule.startswith("-A") and "82" in rule:
            _, chain, *rest = shlex.split(rule)
            inside(pod, iptables, "-t", "nat", "-D", chain, *rest)
            inside(pod, iptables, "-t", "nat", "-A", chain, *rest)
    assert find(pod).leads
    clean(pod)
    assert not find(pod)
    assert saved() == before


def test_a_pod_may_have_any_number_of_rules(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf_tables, "AT_MOST", 100)
    many = "".join(f"tcp dport {port} accept\n" for port in range(1, 5000))
    inside(pod, "nft", "-f", "-", text=f"table ip app {{\nchain many {{\n{many}}}\n}}\n")
    with netns.entered(pod):
        assert 100 <= len(nf_tables.rules()) < 1000
    inside(
        pod,
        "iptables-legacy",
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "-j",
        "REDIRECT",
        "--to-ports",
        "15001",
    )
    assert find(pod).legacy
    monkeypatch.setattr(xtables, "AT_MOST_BYTES", 100)
    assert not find(pod)


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
    inside(pod, "ip", "rule", "add", "fwmark", "0x539/0xfff", "lookup", "133")
    inside(pod, "ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "133")
    inside(pod, "ip", "-6", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100")
    inside(pod, "ip", "-6", "route", "add", "local", "::/0", "dev", "lo", "table", "100")
    inside(pod, "ip", "rule", "add", "fwmark", "0x7", "lookup", "101")
    inside(pod, "ip", "-6", "route", "add", "unreachable", "default", "metric", "9", "table", "100")
    inside(pod, "ip", "route", "add", "local", "192.0.2.0/24", "dev", "lo", "table", "100")
    clean(pod)
    rules = inside(pod, "ip", "rule")
    rules += inside(pod, "ip", "-6", "rule")
    assert "0x111" not in rules and "0x539" not in rules and "0x7" in rules
    for family in ("-4", "-6"):
        local = inside(pod, "ip", family, "route", "show", "table", "all", "type", "local")
        assert local.count("default") == 0
    assert inside(pod, "ip", "route", "show", "table", "100").startswith("local 192.0.2.0/24 ")
    assert inside(pod, "ip", "-6", "route", "show", "table", "100").startswith("unreachable default ")


def test_rules_alone_go_while_their_proxy_listens_and_their_routing_stays(pod: Path) -> None:
    mess(pod, "iptables-nft")
    inside(pod, "ip", "link", "set", "lo", "up")
    inside(pod, "ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
    inside(pod, "ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
    with netns.entered(pod), socket.create_server(("0.0.0.0", 15001)):
        other_mesh.take_out_rules(other_mesh.find())
        assert not other_mesh.find().leads
        assert other_mesh.has_ambient_routing()
    inside(pod, "ip", "rule", "del", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
    inside(pod, "ip", "-6", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
    with netns.entered(pod):
        assert not other_mesh.has_ambient_routing()


def test_a_proxy_that_listens_is_found_and_cannot_be_taken_away(pod: Path) -> None:
    with netns.entered(pod):
        sock, another = (socket.create_server(("0.0.0.0", port)) for port in (15006, 8080))
    with sock, another:
        assert str(find(pod)) == "a proxy that listens on port 15006"
        with pytest.raises(CannotClean, match="sidecar"):
            clean(pod)


def test_an_ordinary_pod_has_nothing_and_no_table_is_made_by_looking(pod: Path) -> None:
    assert not find(pod)
    with netns.entered(pod):
        assert (nf_tables.chains(), xtables.tables()) == ([], [])
