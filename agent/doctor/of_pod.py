"""What becomes of the connections of one pod, and to it: agent, programs, who listens, names, policy, limits.

As `flow`, of all connections: the kernel's part is told without an agent, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent.admin.client import AgentAbsent, AgentRefused
from agent.doctor import inside_pod, limited
from agent.doctor.check import Verdict
from agent.doctor.flow import Kernel, Step, proven
from agent.doctor.site import Site
from agent.doctor.without_agent import ejected_words
from agent.model.address import IP, SocketAddress
from agent.model.counted import counted
from agent.model.listener import HBONE
from redirect import locate
from redirect.forecast import arriving, leaving
from redirect.layout import Flag
from redirect.maps import Maps
from redirect.sock_diag import Listener

Row = Mapping[str, Any]
SOME_PORT = 80
"""Of a pod in which nobody listens: the programs make no difference between ports but the tunnel's and DNS'."""
MOST_PORTS = 4
NOBODY = {4: "192.0.2.1:50000", 6: "[2001:db8::1]:50000"}
"""A client that no mesh has (RFC 5737, RFC 3849)."""


def explain_pod(site: Site, pod: str) -> list[Step]:
    """What is known of a pod by its name `NAMESPACE/NAME`. Raises LookupError, RedirectError, OSError."""
    steps = [*_of_agent(site, pod)]
    with site.maps() as maps:
        noted = {} if maps is None else maps.owners()
        interfaces = [ifindex for ifindex, text in sorted(noted.items()) if text.split()[:1] == [pod]]
        if maps is None or (
            not interfaces and not any(step.verdict is not Verdict.CANNOT_TELL for step in steps)
        ):
            known = sorted({text.split()[0] for text in noted.values() if text})
            others = f"captured are {', '.join(known)}" if known else "none is"
            for line in ejected_words(site.run_dir, maps):
                if line.startswith(f"{pod}: "):
                    raise LookupError(f"{line}; {others}")
            raise LookupError(f"no pod {pod} is captured here; {others}")
        for ifindex in interfaces:
            steps += _of_interface(site, maps, ifindex, pod)
    try:
        steps += [Step("limit", *each) for each in limited.of_pod(pod, site.agent.page("/limits"))]
    except (AgentAbsent, AgentRefused):
        pass  # said above
    return steps


def _of_agent(site: Site, pod: str) -> Iterator[Step]:
    try:
        status = site.agent.page("/status")
    except (AgentAbsent, AgentRefused) as error:
        yield Step("agent", Verdict.CANNOT_TELL, str(error))
        return
    for row in status["pods"]:
        if row["pod"] == pod:
            bad = row["trouble"] or "; ".join(each["effect"] for each in row["not_in_force"])
            words = bad or f"served as {row['identity']}"
            yield Step("agent", Verdict.FAILED if row["trouble"] else Verdict.OK, words)
    for row in status["waiting"]:
        if row["pod"] == pod:
            yield Step("agent", Verdict.FAILED, f"waits, {row['reason']}; {row['remedy']}")
    yield from proven(status, pod)


def _of_interface(site: Site, maps: Maps, ifindex: int, pod: str) -> Iterator[Step]:
    kernel, iface = Kernel(maps), maps.iface(ifindex)
    count = maps.captures().get(ifindex)
    if count is not None:
        words = f"{counted(count.outbound, 'connection')} of it, {count.inbound} to it"
        yield Step("captured", Verdict.OK, words)
    with site.inside():
        namespace = locate.namespace_behind(ifindex)
        found = inside_pod.listeners(ifindex)
    is_open = kernel.is_open(ifindex)
    addresses = iface.addresses if iface is not None else ()
    yield _listens(found, addresses)
    for address in addresses:
        ports = inside_pod.ports_at(found or (), address)
        outwards = kernel.dial(address, SocketAddress(address, SOME_PORT))
        yield kernel.step(leaving(outwards, iface, is_open=is_open), f" of {address}")
        for port in (HBONE.port, *(ports[:MOST_PORTS] or (SOME_PORT,))):
            to = SocketAddress(address, port)
            arrival = arriving(kernel.dial(address, to), iface, is_hosts=False, is_open=is_open)
            yield kernel.step(arrival, f" to {to}")
        yield from _policy(
            site, [SocketAddress(address, port) for port in ports[:MOST_PORTS] or (SOME_PORT,)]
        )
    is_captured = iface is not None and bool(iface.flags & Flag.DNS)
    yield _names(namespace, is_captured=is_captured)


def _listens(found: Sequence[Listener] | None, addresses: Iterable[IP]) -> Step:
    if found is None:
        words = "the pod's network namespace has neither a name nor a process: who listens is not known"
        return Step("application", Verdict.CANNOT_TELL, words)
    ports = {address: inside_pod.ports_at(found, address) for address in addresses}
    if not any(ports.values()):
        words = "nobody listens at its addresses: that is well for a mere client, and a server has ended"
        return Step("application", Verdict.WARNING, words)
    told = (f"at {address} on {inside_pod.some_of(those) or 'no port'}" for address, those in ports.items())
    return Step("application", Verdict.OK, f"somebody listens {', '.join(told)}")


def _names(namespace: Path | None, *, is_captured: bool) -> Step:
    if namespace is None:
        return Step(
            "names", Verdict.CANNOT_TELL, "the pod's network namespace has neither a name nor a process"
        )
    among = inside_pod.processes()
    try:
        path = inside_pod.resolv_conf(namespace, among)
        asked = inside_pod.servers(namespace, among)
    except OSError as error:
        return Step("names", Verdict.CANNOT_TELL, f"its resolv.conf cannot be read: {error}")
    words = f"{path} names {', '.join(map(str, asked)) or 'nobody: libc asks the pod itself'}"
    if is_captured:
        words += "; its DNS is captured: the agent answers names of the mesh, and asks these for others"
    else:
        words += "; its DNS is not captured (--dns-capture): it goes there as it is"
    return Step("names", Verdict.OK, f"{words}. `ztun doctor --only DNS` asks them")


def _policy(site: Site, ends: Iterable[SocketAddress]) -> Iterator[Step]:
    """What holds for clients in general; whom a rule lets in is told of one client, by `--flow`."""
    said: dict[str, list[str]] = {}
    for end in ends:
        query = urlencode({"source": NOBODY[end.ip.version], "destination": str(end)})
        try:
            policy = site.agent.page(f"/explain?{query}")["policy"]
        except (AgentAbsent, AgentRefused):
            return  # said above
        if policy is not None:
            said.setdefault(policy_words(policy), []).append(str(end))
    for words, which in said.items():
        yield Step("policy", Verdict.OK, f"{', '.join(which)}: {words}")


def policy_words(policy: Row) -> str:
    """Of a client without an identity, and of those with one."""
    if not policy["policies"] and not policy["missing"]:
        return (
            "no policy is about it, and where none is everybody may connect: peers of the mesh, and in clear whoever "
            "is none"
        )
    named = ", ".join(f"{each['action']} {each['policy']}" for each in policy["policies"])
    nobody = "may connect" if policy["allowed"] else f"may not: {policy['reason']}"
    words = f"judged by {named or 'what is missing'}; a client without an identity {nobody}"
    if any(each["action"] == "ALLOW" for each in policy["policies"]):
        words += "; whom no ALLOW matches is refused"
    return f"{words}. Of one client: `ztun doctor --flow CLIENT-POD:PORT`"
