"""What the programs would do with the first packet of a TCP connection, step by step. Pure; it runs none of them.

The same checks in the same order as bpf/from_pod.c and bpf/to_pod.c, on entries that were read from the maps;
tests/packets/test_forecast.py holds it against the programs themselves. What only the packet at hand decides, rates and
sockets that are already there, is said in words.
"""

from __future__ import annotations

from dataclasses import dataclass

from redirect.conf import Conf
from redirect.layout import IP, SLOTS, Flag, IfaceEntry
from redirect.layout import NO_ADDRESS as NONE

HBONE_PORT, DNS_PORT = 15008, 53
LEARNING = "the pod is being enrolled this very moment: its packets pass, and a SYN is noted"
OPENED = "the pod is open for a while (`ztun bypass`): it passes in clear, and no policy is asked"


@dataclass(frozen=True, slots=True)
class Exit:
    """By which exit of which program a packet leaves, and what that means for it."""

    program: str
    reason: str
    words: str
    is_drop: bool = False
    unless: tuple[str, ...] = ()
    """What can come in between, of which the maps do not tell."""


@dataclass(frozen=True, slots=True)
class Dial:
    """The first packet of a connection, and what the maps have on it. `slots`: whether each has a listener.

    `at_s`: when, of CLOCK_BOOTTIME.
    """

    source: IP
    destination: IP
    dport: int
    conf: Conf
    slots: tuple[bool, ...]
    at_s: float

    def has_listener(self, name: str) -> bool:
        return self.slots[SLOTS[name]]


def leaving(dial: Dial, iface: IfaceEntry | None, *, is_open: bool = False) -> Exit:
    """By `from_pod`, which sees what the pod behind an interface sends. `is_open`: somebody opened it for a while."""

    def passed(reason: str, words: str) -> Exit:
        return Exit("from_pod", reason, words)

    def dropped(reason: str, words: str) -> Exit:
        return Exit("from_pod", reason, words, is_drop=True)

    if iface is None:
        return passed("UNKNOWN_IFACE", "the pod is not captured: its packets pass in clear")
    flags = iface.flags_at(dial.at_s)
    if flags & Flag.LEARN:
        return passed("LEARNING", LEARNING)
    if dial.source not in iface.addresses:
        if iface.addr4 == iface.addr6 == NONE:
            return dropped("CLOSED", "the pod is captured and closed: it is not served yet, or no more")
        return dropped("SPOOFED", "this address is not one that the pod is served with")
    if not flags & (Flag.ENROLLED | Flag.DRAIN):
        return passed("NOT_ENROLLED", "the pod is known and not enrolled: its packets pass in clear")
    if not dial.conf.pod_side_ifindex:
        return dropped("NO_CONF", "the programs do not know the way to the proxy yet")
    if flags & Flag.DRAIN:
        return passed("DRAIN_PASS", "the pod is being let go: new connections pass in clear")
    if is_open:
        return passed("OPEN_SYN", OPENED)
    if not dial.has_listener("outbound"):
        return dropped(
            "NO_LISTENER", "no worker listens for it: the pod's system tries again, and then gives up"
        )
    if dial.conf.owners and flags & Flag.HONEST and not (flags & Flag.DNS and dial.dport == DNS_PORT):
        return dropped("SYN_HELD", "held, and a worker asked: it is let in once the destination has answered")
    return passed("SYN_TO_PROXY", "to the proxy, as each new connection of an enrolled pod")


def arriving(
    dial: Dial,
    iface: IfaceEntry | None,
    *,
    is_hosts: bool,
    is_local_peer: bool = False,
    is_open: bool = False,
    is_peer_open: bool = False,
    is_denied: bool = False,
) -> Exit:
    """By `to_pod`, which sees what is sent to the pod. `is_hosts`: this node itself sends it.

    `is_local_peer`: a captured pod of this node does; `is_peer_open`, and that is open. `is_denied`: by policy, which
    programs know as far as it is about addresses and ports alone.
    """

    def passed(reason: str, words: str) -> Exit:
        return Exit("to_pod", reason, words)

    def dropped(reason: str, words: str) -> Exit:
        return Exit("to_pod", reason, words, is_drop=True)

    if iface is None:
        return passed("UNKNOWN_IFACE", "the pod is not captured: packets to it pass in clear")
    flags = iface.flags_at(dial.at_s)
    is_captured = flags & (Flag.ENROLLED | Flag.DRAIN)
    if not dial.conf.net_side_ifindex:
        if is_captured:
            return dropped("NO_CONF", "the programs do not know the way to the proxy yet")
        return passed("NO_CONF_PASS", "the pod is not enrolled: packets to it pass in clear")
    if is_hosts:
        return passed(
            "HOST_SYN",
            "of this node itself, a probe perhaps: it goes to the pod as it is, unless --host-traffic captures it",
        )
    is_drained = bool(flags & Flag.DRAIN)
    # Peers that have not heard yet that the pod leaves the mesh go on to dial its tunnel port.
    if is_drained and not (dial.dport == HBONE_PORT and dial.has_listener("hbone")):
        return passed("DRAIN_PASS", "the pod is being let go: new connections pass in clear")
    if flags & Flag.LEARN:
        return passed("LEARNING", LEARNING)
    if not is_drained and not flags & Flag.ENROLLED:
        return passed("NOT_ENROLLED", "the pod is known and not enrolled: packets to it pass in clear")
    if (
        flags & Flag.BYPASS
        and dial.dport != HBONE_PORT
        and not (dial.conf.is_plaintext_by_ports and is_local_peer)
    ):
        return passed(
            "BYPASS_SYN",
            "connections to this pod go past the proxy (bypass-inbound-capture): no policy is asked",
        )
    by_worker = dial.conf.is_plaintext_by_ports and is_local_peer and not is_peer_open
    if is_open and dial.dport != HBONE_PORT and not by_worker:
        return passed("OPEN_SYN", OPENED)
    name = "hbone" if dial.dport == HBONE_PORT else "plaintext"
    if not dial.has_listener(name):
        return dropped(
            "NO_LISTENER", f"no worker listens for {name}: the peer's system tries again, and then gives up"
        )
    if is_denied and (name == "hbone" or not (dial.conf.is_plaintext_by_ports and is_local_peer)):
        return dropped(
            "DENIED", "policy denies it by addresses and ports alone: the program answers, but for samples"
        )
    if dial.conf.owners and flags & Flag.HONEST and name == "plaintext":
        return dropped("SYN_HELD", "held, and a worker asked: it is let in once the pod has answered")
    denied = "policy denies it by address and port alone: then it is answered here (DENIED)"
    strange = "its sender opens too many before it has proven who it is (STRANGER_TOO_FAST)"
    unless = (denied,) if name == "plaintext" else (strange, denied)
    return Exit("to_pod", "SYN_TO_PROXY", f"to the proxy ({name})", unless=unless)
