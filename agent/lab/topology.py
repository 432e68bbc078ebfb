"""The lab: two nodes and their pods as network namespaces on one machine.

Node namespaces NAME-a and NAME-b are joined by a veth; each pod NAME-POD sits behind a host veth of its node.
`up` builds all of it from a blueprint or nothing at all, `down` removes exactly what `up` made. A second lab
under another name may use the same addresses: they exist only inside the namespaces. Agents and the control
plane are started by `lab.agents`, not here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.lab import firewall, wiring
from agent.lab.blueprint import NODES, Blueprint, LabError, Pod
from agent.lab.firewall import Denied
from agent.lab.journal import Journal
from agent.lab.naming import RUN_ROOT
from agent.lab.process import Processes
from agent.model.address import IP, parse_ip
from redirect import netns

DEFAULT_NAME = "ztunlab"
UPLINK_ADDRESSES = {
    "node-a": ("172.31.77.1/24", "fd77:0:0:77::1/64"),
    "node-b": ("172.31.77.2/24", "fd77:0:0:77::2/64"),
}
# An interface name has 15 characters.
IFNAME_LIMIT = 15


@dataclass(frozen=True, slots=True)
class NodePlace:
    """A node and where it is: `netns` is the path of its namespace."""

    name: str
    netns: Path
    addresses: tuple[IP, ...]


@dataclass(frozen=True, slots=True)
class PodPlace:
    """A pod and where it is. `ifname` is its host veth, in the namespace of its node."""

    namespace: str
    name: str
    node: str
    netns: Path
    ifname: str
    addresses: tuple[IP, ...]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def address(self, version: int) -> IP:
        """Its IPv4 or IPv6 address."""
        for ip in self.addresses:
            if ip.version == version:
                return ip
        raise LabError(f"pod {self.key} has no IPv{version} address")


class Topology:
    """One lab by name. `up`, then `nodes`, `pods` and `processes`; `down` is safe at any time."""

    def __init__(self, name: str = DEFAULT_NAME, root: Path = RUN_ROOT) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            raise LabError(
                f"lab name {name!r}: want lower-case letters, digits and dashes, 31 at most, 10 with agents"
            )
        self.name = name
        self.journal = Journal(name, root)
        self.processes = Processes(self.journal)
        self.nodes: dict[str, NodePlace] = {}
        self.pods: dict[str, PodPlace] = {}
        self._denied: list[Denied] = []

    @classmethod
    def load(cls, name: str = DEFAULT_NAME, root: Path = RUN_ROOT) -> Topology:
        """A lab that is up, as its journal has it."""
        lab = cls(name, root)
        places = lab.journal.places()
        if places is None:
            raise LabError(f"lab {name} is not up: `ztun lab up --name {name}` builds it")
        lab._restore(places)
        return lab

    def up(self, blueprint: Blueprint) -> None:
        """Builds the lab. On failure what was made is removed again and the error goes on."""
        nodes, pods = self._plan(blueprint)
        self._check_free([*nodes.values(), *pods.values()])
        self.journal.claim()
        try:
            self._build(nodes, pods, blueprint)
        except BaseException:
            self.down()
            raise
        self.nodes, self.pods = nodes, pods
        self.journal.save_places(self._places())

    def node_namespaces(self) -> list[tuple[str, Path]]:
        """Each node's name and the path its namespace has, also when there is none."""
        return [(name, self._path(name.removeprefix("node-"))) for name in NODES]

    def end_processes(self) -> None:
        """Ends what was started in this lab or lives in its namespaces. Idempotent."""
        if self.journal.exists:
            self.processes.end_all(netns.path_of(name) for name in self.journal.namespaces())

    def down(self) -> None:
        """Ends the lab's processes and removes its namespaces, with all that is in them. Idempotent."""
        if not self.journal.exists:
            return
        self.end_processes()
        names = self.journal.namespaces()
        for name in reversed(names):
            netns.remove(name)
        self.journal.erase()
        self.nodes, self.pods = {}, {}

    def node_of(self, pod: str) -> NodePlace:
        return self.nodes[self.pods[pod].node]

    def deny_forward(self, *pairs: Denied) -> None:
        """Drops the given pairs in FORWARD of both nodes, beside those given before."""
        self._denied += pairs
        self._apply_policy()

    def allow_forward(self) -> None:
        """Takes back every `deny_forward`."""
        self._denied.clear()
        self._apply_policy()

    def _apply_policy(self) -> None:
        for node in self.nodes.values():
            firewall.apply(node.netns, firewall.policy_ruleset(self._table("policy"), self._denied))

    def _table(self, what: str) -> str:
        return f"{self.name.replace('-', '_')}_{what}"

    def _plan(self, blueprint: Blueprint) -> tuple[dict[str, NodePlace], dict[str, PodPlace]]:
        nodes = {
            name: NodePlace(name, self._path(name.removeprefix("node-")), _bare(UPLINK_ADDRESSES[name]))
            for name in NODES
        }
        taken = {node.netns: node.name for node in nodes.values()}
        pods: dict[str, PodPlace] = {}
        for pod in blueprint.pods:
            place = self._place(pod)
            if place.netns in taken:
                raise LabError(
                    f"pod {pod.key} and {taken[place.netns]} would share namespace {place.netns.name}"
                )
            taken[place.netns] = pod.key
            pods[pod.key] = place
        return nodes, pods

    def _place(self, pod: Pod) -> PodPlace:
        return PodPlace(
            pod.namespace, pod.name, pod.node, self._path(pod.name), _ifname(pod.name), pod.addresses
        )

    def _path(self, suffix: str) -> Path:
        return netns.path_of(f"{self.name}-{suffix}")

    def _check_free(self, places: list[NodePlace | PodPlace]) -> None:
        for place in places:
            if place.netns.exists() and not self.journal.exists:
                raise LabError(
                    f"{place.netns} exists and is not of this lab: remove it or choose another --name"
                )

    def _build(self, nodes: dict[str, NodePlace], pods: dict[str, PodPlace], blueprint: Blueprint) -> None:
        for node in nodes.values():
            self._create(node.netns)
            wiring.prepare_node(node.netns)
        one, other = (nodes[name] for name in NODES)
        wiring.join_nodes(one.netns, other.netns, (UPLINK_ADDRESSES[one.name], UPLINK_ADDRESSES[other.name]))
        for pod in pods.values():
            self._create(pod.netns)
            wiring.attach_pod(nodes[pod.node].netns, pod.netns, pod.ifname, pod.addresses)
        for here, there in ((one, other), (other, one)):
            far = [ip for pod in pods.values() if pod.node == there.name for ip in pod.addresses]
            wiring.route_pods(here.netns, far, {ip.version: str(ip) for ip in there.addresses})
            rules = firewall.services_ruleset(self._table("services"), blueprint, here.name)
            firewall.apply(here.netns, rules)
        for path in (*(node.netns for node in nodes.values()), *(pod.netns for pod in pods.values())):
            wiring.wait_until_up(path)

    def _create(self, path: Path) -> None:
        self.journal.note_namespace(path.name)
        netns.create(path.name)

    def _places(self) -> dict[str, Any]:
        return {
            "nodes": [
                {"name": n.name, "netns": str(n.netns), "addresses": [str(ip) for ip in n.addresses]}
                for n in self.nodes.values()
            ],
            "pods": [
                {
                    "namespace": p.namespace,
                    "name": p.name,
                    "node": p.node,
                    "netns": str(p.netns),
                    "ifname": p.ifname,
                    "addresses": [str(ip) for ip in p.addresses],
                }
                for p in self.pods.values()
            ],
        }

    def _restore(self, places: dict[str, Any]) -> None:
        def typed(place: dict[str, Any]) -> dict[str, Any]:
            addresses = tuple(parse_ip(ip) for ip in place["addresses"])
            return place | {"netns": Path(place["netns"]), "addresses": addresses}

        self.nodes = {place["name"]: NodePlace(**typed(place)) for place in places["nodes"]}
        pods = [PodPlace(**typed(place)) for place in places["pods"]]
        self.pods = {pod.key: pod for pod in pods}


def _bare(addresses: tuple[str, ...]) -> tuple[IP, ...]:
    return tuple(parse_ip(address.partition("/")[0]) for address in addresses)


def _ifname(pod: str) -> str:
    name = f"pod-{pod}"
    if len(name) <= IFNAME_LIMIT:
        return name
    return "pod" + hashlib.sha256(pod.encode()).hexdigest()[:12]
