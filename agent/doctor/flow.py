"""What would happen to a connection on this node, and what has, in words: programs, route, policy, counters.

The kernel's part is told from the pinned maps, so also while no agent runs; route and policy are in the memory of the
agent alone. Nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from agent.admin.client import AgentAbsent, AgentRefused
from agent.doctor import inside_pod, limited
from agent.doctor.check import Verdict
from agent.doctor.site import Site
from agent.model.address import AddressError, SocketAddress, parse_ip
from agent.model.counted import counted
from redirect import break_glass, prefilter
from redirect.forecast import Dial, Exit, arriving, leaving
from redirect.layout import HOOK_FROM_POD, HOOK_TO_POD, IP, FlowKey
from redirect.maps import Maps
from redirect.opening import OF_NODE, in_s

TCP = 6
ANY_PORT = 50000
"""One of those that Linux chooses by default, and of no connection that is known of, most likely."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection: who opens it, and what it dials."""

    source: SocketAddress
    destination: SocketAddress

    @classmethod
    def parse(cls, text: str) -> Flow:
        """From `SRC[:PORT]-DST:PORT`, IPv6 with a port in brackets. Raises ValueError.

        Without its port the source is a client that begins now, from one that its kernel chooses: ANY_PORT.
        """
        source, dash, destination = text.partition("-")
        if not dash:
            raise ValueError(f"{text!r} is not SRC[:PORT]-DST:PORT")
        try:
            return cls(_source(source), SocketAddress.parse(destination))
        except AddressError as error:
            raise ValueError(f"{text!r} is not SRC[:PORT]-DST:PORT: {error}") from error

    def __str__(self) -> str:
        return f"{self.source}-{self.destination}"

    def key(self, hook: int) -> FlowKey:
        return FlowKey(
            self.source.ip, self.destination.ip, self.source.port, self.destination.port, TCP, hook
        )


def _source(text: str) -> SocketAddress:
    """Raises AddressError."""
    try:
        return SocketAddress(parse_ip(text.removeprefix("[").removesuffix("]")), ANY_PORT)
    except AddressError:
        return SocketAddress.parse(text)


@dataclass(frozen=True, slots=True)
class Step:
    """One station of a connection. `verdict`: FAILED where it ends there; `unless`: what would make it otherwise."""

    where: str
    verdict: Verdict
    words: str
    unless: tuple[str, ...] = ()


def explain_flow(site: Site, flow: Flow) -> list[Step]:
    """Every station, in order. Raises RedirectError, OSError."""
    steps = []
    answer: Row | None = None
    try:
        query = urlencode({"source": str(flow.source), "destination": str(flow.destination)})
        answer = site.agent.page(f"/explain?{query}")
    except (AgentAbsent, AgentRefused) as error:
        steps.append(Step("agent", Verdict.CANNOT_TELL, f"{error}: route and policy are in its memory alone"))
    with site.maps() as maps:
        if maps is None:
            return [
                Step("kernel", Verdict.OK, "nothing of ztun is in the kernel: the connection goes in clear"),
                *steps,
            ]
        kernel = Kernel(maps)
        has_left = kernel.leaves(flow)
        before = list(has_left)
        after = (
            []
            if answer is None
            else [*mesh_steps(answer), *_limited(site, flow, answer), *_proven(site, answer)]
        )
        target = _target(flow, answer)
        return [
            *before,
            *steps,
            *after,
            *kernel.arrives(flow, target, _node_of(answer, site)),
            *kernel.listens(_application(flow, answer), site),
            *_live(site, flow),
        ]


class Kernel:
    """The part of the programs, from their maps."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._conf, self._slots = maps.conf(), maps.slots()
        self._hosts = maps.host_addresses()
        self._stats = maps.stats()
        self._open = {each.ifindex for each in break_glass.opened(maps)}

    def leaves(self, flow: Flow) -> Iterator[Step]:
        entry = self._maps.pod(flow.source.ip)
        if entry is None:
            whose = (
                "an address of this node" if flow.source.ip in self._hosts else "no captured pod of this node"
            )
            yield Step("source", Verdict.OK, f"{flow.source.ip} is {whose}: its programs do not see it leave")
            return
        captured = self._maps.captures().get(entry.ifindex)
        owner = self._maps.owner(entry.ifindex) or "a pod that is not noted"
        count = f", {counted(captured.outbound, 'connection')} of its so far" if captured is not None else ""
        yield Step("source", Verdict.OK, f"{flow.source.ip} is {owner}, interface {entry.ifindex}{count}")
        if any(key == flow.key(HOOK_FROM_POD) for key, _ in self._maps.passthrough()):
            words = "it was open when the pod was captured, and passes as it is until it ends (GRANDFATHERED)"
            yield Step("from_pod", Verdict.OK, words)
            return
        yield self.step(
            leaving(
                self.dial(flow.source.ip, flow.destination),
                self._maps.iface(entry.ifindex),
                is_open=self.is_open(entry.ifindex),
            )
        )

    def arrives(self, flow: Flow, target: SocketAddress, node: str = "") -> Iterator[Step]:
        """`node`: where the pod is, as far as that is known and another one."""
        entry = self._maps.pod(target.ip)
        if entry is None:
            yield Step(
                "destination",
                Verdict.OK,
                f"{target.ip} is no captured pod of this node: {_rest(node)}",
            )
            return
        owner = self._maps.owner(entry.ifindex) or "a pod that is not noted"
        yield Step("destination", Verdict.OK, f"{target.ip} is {owner}, interface {entry.ifindex}")
        if any(key == flow.key(HOOK_TO_POD) for key, _ in self._maps.passthrough()):
            yield Step(
                "to_pod",
                Verdict.OK,
                "it was open when the pod was captured, and passes as it is (GRANDFATHERED)",
            )
            return
        peer, fds = self._maps.pod(flow.source.ip), self._maps.fds
        is_denied = prefilter.is_denied(fds, flow.source.ip, *target, entry.ifindex)
        yield self.step(
            arriving(
                self.dial(flow.source.ip, target),
                self._maps.iface(entry.ifindex),
                is_hosts=flow.source.ip in self._hosts,
                is_local_peer=peer is not None,
                is_open=self.is_open(entry.ifindex),
                is_peer_open=peer is not None and self.is_open(peer.ifindex),
                is_denied=is_denied,
            )
        )

    def listens(self, at: SocketAddress, site: Site) -> Iterator[Step]:
        """Whether the application is there, where it is a captured pod's."""
        entry = self._maps.pod(at.ip)
        if entry is None:
            return
        with site.inside():
            found = inside_pod.listeners(entry.ifindex)
        pod = (self._maps.owner(entry.ifindex) or "the pod").split()[0]
        yield Step("application", *inside_pod.judged(found, at, pod))

    def is_open(self, ifindex: int) -> bool:
        return not self._open.isdisjoint((ifindex, OF_NODE))

    def dial(self, source: IP, to: SocketAddress) -> Dial:
        return Dial(source, to.ip, to.port, self._conf, self._slots, in_s(0))

    def step(self, exit: Exit, of: str = "") -> Step:
        so_far = self._stats.get((exit.program, exit.reason), 0)
        is_lost = exit.is_drop and exit.reason != "SYN_HELD"
        words = f"{exit.words} ({exit.reason}, {counted(so_far, 'packet')} of all pods so far)"
        return Step(f"{exit.program}{of}", Verdict.FAILED if is_lost else Verdict.OK, words, exit.unless)


def mesh_steps(answer: Row) -> Iterator[Step]:
    """What the agent says of route and policy."""
    if answer["refusal"]:
        # Of an agent of before a key is missing: doctor may be newer than what runs.
        verdict = Verdict.CANNOT_TELL if answer.get("is_pending") else Verdict.FAILED
        yield Step("route", verdict, f"refused: {answer['refusal']}")
    route = answer["route"]
    if route is not None:
        yield Step("route", Verdict.OK, _route_words(route, answer["destination"]))
    elif not answer["refusal"]:
        yield Step(
            "route", Verdict.CANNOT_TELL, "its sender is not known to the mesh: whoever has it decides that"
        )
    policy = answer["policy"]
    if policy is None:
        words = (
            "not judged here: a waypoint, a gateway or nobody of the mesh is reached, or the route is refused"
        )
        yield Step("policy", Verdict.CANNOT_TELL, words)
        return
    who = policy["identity"] or "a peer without a proven identity"
    matched = [each["policy"] for each in policy["policies"] if each["matched"]]
    by = f" by {', '.join(matched)}" if matched else ""
    if policy["allowed"]:
        reason = "no policy is about it" if not policy["policies"] else "nothing forbids it"
        yield Step("policy", Verdict.OK, f"{who} may reach {policy['at']}{by or f', as {reason}'}")
    else:
        yield Step("policy", Verdict.FAILED, f"{who} may not reach {policy['at']}: {policy['reason']}")
        for each in policy["policies"]:
            if not each["matched"]:
                failed = sorted({name for rule in each["rules"] for name in rule["failed"]})
                words = f"{each['action']} {each['policy']} does not match: {', '.join(failed) or 'it has no rules'}"
                yield Step("policy", Verdict.OK, words)


def proven(status: Row, *pods: str) -> Iterator[Step]:
    """What is found of the traffic of these pods: of a peer that is somebody else, who was wanted and who came."""
    for row in status["proof"]["findings"]:
        if row["pod"] in pods and row["link"] in ("lookup", "peer"):
            verdict = Verdict.WARNING if row.get("is_remark") else Verdict.FAILED
            yield Step(row["link"], verdict, f"pod {row['pod']}: {row['reason']}; {row['remedy']}")


def _proven(site: Site, answer: Row) -> Iterator[Step]:
    ends = [each["workload"] for each in (answer["source"], answer["destination"]) if each is not None]
    try:
        yield from proven(site.agent.page("/status"), *ends)
    except (AgentAbsent, AgentRefused):
        return


def _limited(site: Site, flow: Flow, answer: Row) -> Iterator[Step]:
    """Whether its client may have one more; asked of what policy allows, as the worker does."""
    policy = answer["policy"]
    said = policy.get("limits") if policy is not None and policy["allowed"] else None
    if said is None:
        return
    try:
        clients = site.agent.page("/limits").get("clients")
        is_open = bool(_open(site, flow))
    except (AgentAbsent, AgentRefused):
        clients, is_open = None, False
    yield Step("limit", *limited.of_flow(said, policy["identity"], clients, is_open=is_open))


def _route_words(route: Row, destination: Row | None) -> str:
    to = f"{destination['workload']} at " if destination is not None else ""
    words = f"{route['hop']} to {to}{route['target']}"
    if route["authority"]:
        words += f", CONNECT {route['authority']}"
    if route["service"]:
        words += f", by Service {route['service']}"
    if route["accepted"]:
        words += f", which has to prove to be {' or '.join(route['accepted'])}"
    return words


def _target(flow: Flow, answer: Row | None) -> SocketAddress:
    """What arrives at the pod in the end, as far as is known."""
    if answer is not None and answer["route"] is not None:
        return SocketAddress.parse(answer["route"]["target"])
    return flow.destination


def _application(flow: Flow, answer: Row | None) -> SocketAddress:
    """Where the application would have to listen; what goes to a waypoint or a gateway ends at that."""
    route = None if answer is None else answer["route"]
    if route is None:
        return flow.destination
    try:
        return SocketAddress.parse(route["authority"] or route["target"])
    except AddressError:
        return SocketAddress.parse(route["target"])


def _node_of(answer: Row | None, site: Site) -> str:
    there = None if answer is None else answer["destination"]
    return there["node"] if there is not None and there["node"] != site.settings.node else ""


def _rest(node: str) -> str:
    if not node:
        return "the rest is seen there"
    return f"the rest, whether anybody listens too, is seen on node {node}: ask its `ztun doctor` the same"


def _live(site: Site, flow: Flow) -> Iterator[Step]:
    """Whether it is open now."""
    try:
        open_ = _open(site, flow)
    except (AgentAbsent, AgentRefused):
        return
    if not open_:
        yield Step("now", Verdict.OK, "no such connection is open")
    for row in open_:
        yield Step("now", Verdict.OK, f"open {row['direction']}, {row['protocol']} to {row['actual_dst']}")


def _open(site: Site, flow: Flow) -> list[Row]:
    """The agent's rows of it. Raises AgentAbsent, AgentRefused."""
    rows = site.agent.page("/connections")["connections"]
    return [
        row for row in rows if row["src"] == str(flow.source) and row["original_dst"] == str(flow.destination)
    ]
