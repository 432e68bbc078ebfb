"""What is inside a captured pod: who listens there, and which name servers its programs ask.

Read from the outside: the kernel's list of the sockets of its network namespace, and the files of a process in it. A
namespace with a name and no process is as `ip netns exec` makes it: /etc/netns/NAME/resolv.conf, else the machine's.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from agent.dns.name_servers import name_servers
from agent.doctor.check import Verdict
from agent.model.address import IP, SocketAddress
from redirect import locate, netns, sock_diag
from redirect.sock_diag import Listener

NETNS_CONFIGURATION = Path("/etc/netns")
MOST_NAMED = 5
MACHINES = Path("/etc/resolv.conf")


def listeners(ifindex: int) -> list[Listener] | None:
    """Those of the pod behind an interface; None: nothing leads into its namespace. Raises OSError."""
    namespace = locate.namespace_behind(ifindex)
    if namespace is None:
        return None
    with netns.entered(namespace):
        return sock_diag.listeners()


def ports_at(found: Collection[Listener], address: IP) -> list[int]:
    """At which somebody accepts what is dialled to the address."""
    return sorted({each.port for each in found if each.accepts(address)})


def judged(found: Collection[Listener] | None, at: SocketAddress, pod: str) -> tuple[Verdict, str]:
    """Whether somebody would accept a connection to it."""
    if found is None:
        return Verdict.CANNOT_TELL, f"the network namespace of {pod} has neither a name nor a process"
    ports = ports_at(found, at.ip)
    if at.port in ports:
        return Verdict.OK, f"somebody listens at {at} in {pod}"
    elsewhere = sorted({str(each.local) for each in found if each.port == at.port})
    words = f"nobody listens at {at} in {pod}: its application has ended, or listens elsewhere"
    if elsewhere:
        return Verdict.FAILED, f"{words} (on port {at.port} only at {', '.join(elsewhere)})"
    instead = f"somebody does on {some_of(ports)}" if ports else "there is no listener at that address"
    return Verdict.FAILED, f"{words} ({instead})"


def some_of(ports: Collection[int]) -> str:
    """The first of them, and how many more there are; empty: none."""
    first = ", ".join(map(str, sorted(ports)[:MOST_NAMED]))
    return first + (f" and {len(ports) - MOST_NAMED} more" if len(ports) > MOST_NAMED else "")


def processes() -> dict[int, Path]:
    """A process of each network namespace of the machine, by the namespace's inode: its directory in /proc."""
    found: dict[int, Path] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            found.setdefault(netns.inode(path / "ns/net"), path)
    return found


def resolv_conf(namespace: Path, among: dict[int, Path]) -> Path:
    """Where a pod's programs read it. `among`: of `processes`."""
    process = among.get(netns.inode(namespace))
    if process is not None:
        return process / "root/etc/resolv.conf"
    own = NETNS_CONFIGURATION / namespace.name / "resolv.conf"
    return own if own.exists() else MACHINES


def is_machines_own(path: Path) -> bool:
    """Whether it is no file of the pod's: hardly any container has that, and every namespace made by hand."""
    try:
        return path == MACHINES or path.samefile(MACHINES)
    except OSError:
        return False


def servers(namespace: Path, among: dict[int, Path]) -> tuple[IP, ...]:
    """Whom they ask; libc asks the machine itself where the file names nobody. Raises OSError."""
    return name_servers(resolv_conf(namespace, among))
