"""A node whose pods are ports of a bridge, wired as the CNI's bridge plugin does it, and a machine outside.

`routed`: the bridge has the gateway's address and the node routes (`isGateway`). `flat`: the node's uplink is a port
of the bridge too, the gateway is the machine outside, and the node has no address there. No labs of `agent.lab`: those
are routed. Plain listeners stand in for the proxy, as in `redirect_lab`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from agent.model.listener import LISTENERS, Side
from redirect import host_addresses, netns
from redirect.desired import Desired
from redirect.layout import IP
from redirect.locate import locate
from redirect.place import Place
from redirect.reconcile import Redirection
from tests.support.redirect_lab import IPV6_TRANSPARENT, PATIENCE_S, listener

IP_TRANSPARENT = 19
LINK = {4: "10.66.0.{}/24", 6: "fd66::{}/64"}
GATEWAY, FIRST_POD = 1, 11
FAR = {4: "198.51.100.9", 6: "2001:db8:9::9"}
"""Of the machine outside, behind the gateway."""
UPLINK = {4: ("192.0.2.1/24", "192.0.2.2/24"), 6: ("fd02::1/64", "fd02::2/64")}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NODAD = 0x02
PORT = 8080


@dataclass(frozen=True, slots=True)
class Port:
    """A pod: its namespace, the name of its host veth, its addresses."""

    netns: Path
    ifname: str
    addresses: dict[int, str]


@dataclass
class Segment:
    """The namespaces, and the kernel side of the node. `outside` is the other machine."""

    node: Path
    outside: Path
    redirection: Redirection
    pods: dict[str, Port] = field(default_factory=dict)
    listeners: dict[str, socket.socket] = field(default_factory=dict)

    def locate(self, name: str) -> Place:
        with netns.entered(self.node):
            return locate(netns=self.pods[name].netns)

    def capture(self, *names: str) -> None:
        """Captures these pods and no others."""
        places = [self.locate(name) for name in names]
        assert not [place.refusal for place in places if place.refusal]
        self.apply(*places)

    def apply(self, *places: Place) -> None:
        with netns.entered(self.node):
            wanted = Desired(tuple(place.desired() for place in places), host_addresses.local())
            self.redirection.apply(wanted)

    def dial_as(self, name: str, address: str, port: int, timeout_s: float = PATIENCE_S) -> socket.socket:
        """As the proxy dials in a pod's name: from the net side, with the pod's address."""
        family = ip_address(address).version
        with netns.entered(self.redirection.private_namespaces[1]):
            sock = socket.socket(FAMILIES[family], socket.SOCK_STREAM)
        try:
            if family == 4:
                sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            sock.settimeout(timeout_s)
            sock.bind((self.pods[name].addresses[family], 0))
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def counted(self, program: str, reason: str) -> int:
        return self.redirection.stats()[program, reason]

    @contextmanager
    def answering(self, *, verifies: bool = False) -> Iterator[None]:
        """What the agent does all the time, in quick succession: answers what the programs ask, and verifies."""
        stop, failures = threading.Event(), []

        def answer() -> None:
            try:
                with netns.entered(self.node):
                    while not stop.wait(0.05):
                        self.redirection.neighbourhood.answer()
                        if verifies:
                            self.redirection.neighbourhood.verify()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failures, failures

    def listen(self) -> None:
        namespaces = dict(zip(Side, self.redirection.private_namespaces, strict=True))
        self.listeners = {row.name: listener(namespaces[row.side], row.port) for row in LISTENERS}
        self.redirection.set_listeners({name: sock.fileno() for name, sock in self.listeners.items()})

    def mac(self, where: Path, ifname: str) -> str:
        with netns.entered(where), IPRoute() as ip:
            (link,) = ip.get_links(ifname=ifname)
            return str(link.get("address"))

    def set_link(self, where: Path, ifname: str, **what: Any) -> None:
        """`ip link set IFNAME ...` in a namespace."""
        with netns.entered(where), IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname=ifname)[0], **what)

    def sysctl(self, where: Path, name: str, value: str) -> None:
        with netns.entered(where):
            Path("/proc/sys", name).write_text(value)

    def nft(self, rules: str) -> None:
        """`nft -f -` on the node."""
        with netns.entered(self.node):
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


@contextmanager
def segment(letter: str, run_dir: Path, *, is_flat: bool, pods: int = 3) -> Iterator[Segment]:
    """Pods p1, p2, ... with echoing servers on PORT in all of them and outside. Removed again whatever happens."""
    prefix = f"hb{os.getpid()}{letter}"
    with ExitStack() as closing:
        paths = {}
        for name in ("n", "x", *(f"p{number}" for number in range(1, pods + 1))):
            closing.callback(netns.remove, f"{prefix}-{name}")
            paths[name] = netns.create(f"{prefix}-{name}")
            _prepare(paths[name])
        made = Segment(paths.pop("n"), paths.pop("x"), Redirection(prefix, run_dir))
        _add_bridge(made, is_flat)
        for number, (name, path) in enumerate(paths.items()):
            made.pods[name] = _add_pod(made, path, name, FIRST_POD + number)
        for path in (made.outside, *paths.values()):
            closing.enter_context(_echoing(path))
        closing.callback(_take_down, made)
        with netns.entered(made.node):
            made.redirection.prepare()
        made.listen()
        yield made


def _take_down(made: Segment) -> None:
    for sock in made.listeners.values():
        sock.close()
    made.redirection.close()
    with netns.entered(made.node):
        made.redirection.uninstall()


def _prepare(path: Path) -> None:
    with netns.entered(path), IPRoute() as ip:
        ip.link("set", index=1, state="up")
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")


def _add_bridge(made: Segment, is_flat: bool) -> None:
    with netns.entered(made.node), IPRoute() as ip, made.outside.open("rb") as outside:
        # ip link add br0 type bridge; ip link add up0 type veth peer name eth0 netns OUTSIDE
        ip.link("add", ifname="br0", kind="bridge")
        ip.link("add", ifname="up0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": outside.fileno()})
        bridge, uplink = (ip.link_lookup(ifname=name)[0] for name in ("br0", "up0"))
        ip.link("set", index=uplink, state="up", **({"master": bridge} if is_flat else {}))
        ip.link("set", index=bridge, state="up")
        for sysctl in ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"):
            if Path("/proc/sys", sysctl).exists():
                Path("/proc/sys", sysctl).write_text("0")
        if not is_flat:
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            for version in LINK:
                _add_address(ip, bridge, LINK[version].format(GATEWAY))
                _add_address(ip, uplink, UPLINK[version][0])
                # ip route add FAR via THE OTHER END
                ip.route("add", dst=f"{FAR[version]}/{_bits(version)}", gateway=_bare(UPLINK[version][1]))
    with netns.entered(made.outside), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="eth0")
        ip.link("set", index=index, state="up")
        for version in LINK:
            _add_address(ip, 1, f"{FAR[version]}/{_bits(version)}")
            _add_address(ip, index, LINK[version].format(GATEWAY) if is_flat else UPLINK[version][1])
            if not is_flat:
                _default_route(ip, version, _bare(UPLINK[version][0]))


def _add_pod(made: Segment, path: Path, name: str, number: int) -> Port:
    addresses = {version: pattern.format(number) for version, pattern in LINK.items()}
    with netns.entered(made.node), IPRoute() as ip, path.open("rb") as pod:
        # ip link add vNAME type veth peer name eth0 netns POD; ip link set vNAME master br0 up
        ip.link("add", ifname=f"v{name}", kind="veth", peer={"ifname": "eth0", "net_ns_fd": pod.fileno()})
        index, bridge = (ip.link_lookup(ifname=each)[0] for each in (f"v{name}", "br0"))
        ip.link("set", index=index, master=bridge, state="up")
    with netns.entered(path), IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="eth0")
        ip.link("set", index=index, state="up")
        for version, address in addresses.items():
            _add_address(ip, index, address)
            _default_route(ip, version, _bare(LINK[version].format(GATEWAY)))
    return Port(path, f"v{name}", {version: _bare(each) for version, each in addresses.items()})


def _default_route(ip: IPRoute, version: int, gateway: str) -> None:
    ip.route(
        "add", family=FAMILIES[version], dst="default", gateway=gateway
    )  # ip route add default via GATEWAY


def _add_address(ip: IPRoute, index: int, address: str) -> None:
    """`ip addr add ADDRESS dev INDEX nodad`"""
    family = FAMILIES[ip_address(_bare(address)).version]
    flags = {"flags": NODAD} if family == socket.AF_INET6 else {}
    prefix = int(address.partition("/")[2])
    ip.addr("add", index=index, address=_bare(address), prefixlen=prefix, family=family, **flags)


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _bits(version: int) -> int:
    return 32 if version == 4 else 128


@contextmanager
def _echoing(path: Path) -> Iterator[None]:
    """Sends back the first bytes of every connection to PORT."""
    with netns.entered(path):
        server = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENCE_S)
                try:
                    connection.sendall(connection.recv(64))
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        # close() alone does not wake accept() in another thread.
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def address_of(made: Segment, name: str, version: int) -> IP:
    return ip_address(made.pods[name].addresses[version])
