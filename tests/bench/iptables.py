"""Rules as other meshes set them up, by the real commands, in the calling thread's network namespace.

FileNotFoundError where a command is not installed.
"""

from __future__ import annotations

import subprocess

PROBES, PROBES_V6 = "istio-inpod-probes-v4", "istio-inpod-probes-v6"
SNAT, SNAT_V6 = "169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
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
    "iptables-restore": {"probe": f"{SNAT}/32", "loopback": "127.0.0.1/32"},
    "ip6tables-restore": {"probe": f"{SNAT_V6}/128", "loopback": "::1/128"},
}
# Of the node: probes to pods of these sets look as if they came from an address that the pods let past the proxy.
HOST_RULES = """\
*nat
:ISTIO_POSTRT - [0:0]
-A POSTROUTING -j ISTIO_POSTRT
-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set {set} dst -j SNAT --to-source {source}
COMMIT
"""


def istio_rules() -> None:
    """Those of a pod, in the calling thread's namespace, both families."""
    for command, values in FAMILIES.items():
        run(command, "--noflush", given=RULES.format(**values))


def host_sets() -> None:
    """The sets of the node that istio-cni keeps, and the rule that reads one, of each family."""
    for command, name, family, source in (
        ("iptables-restore", PROBES, "inet", SNAT),
        ("ip6tables-restore", PROBES_V6, "inet6", SNAT_V6),
    ):
        run("ipset", "create", name, "hash:ip", "family", family, "comment", "maxelem", "65536")
        run(command, "--noflush", given=HOST_RULES.format(set=name, source=source))


def add_to_set(address: str, comment: str) -> None:
    """One pod's, as istio-cni adds it when the pod comes."""
    run("ipset", "add", PROBES, address, "comment", comment, "-exist")


def track() -> None:
    """As under kube-proxy's rules: every connection that crosses is tracked. This one matches none."""
    run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.1", "-j", "MASQUERADE")


def lead(device: str, port: int, proxy_port: int, *, is_tproxy: bool) -> None:
    """What a pod sends to a port, to a proxy of the node, where it comes in."""
    chosen = ("PREROUTING", "-i", device, "-p", "tcp", "--dport", str(port))
    if not is_tproxy:
        run("iptables", "-t", "nat", "-A", *chosen, "-j", "REDIRECT", "--to-ports", str(proxy_port))
        return
    to_proxy = ("TPROXY", "--on-port", str(proxy_port), "--tproxy-mark", "0x1/0x1")
    run("iptables", "-t", "mangle", "-A", *chosen, "-j", *to_proxy)
    run("ip", "rule", "add", "fwmark", "0x1/0x1", "lookup", "133")
    run("ip", "route", "add", "local", "default", "dev", "lo", "table", "133")


def run(*command: str, given: str | None = None) -> None:
    """Raises FileNotFoundError, RuntimeError with what the command says."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
