"""The listeners as the control process makes them, with what goes along with them, and their way to the kernel side.

Rings belong to the owners of listeners. They are there before a worker is given one, and programs write into them only
when every owner's listener is where the lookup finds it. Then the slots let connections in; what stops serving ends
in the other order.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from pathlib import PurePath

from agent.config import Config
from agent.enroll.kernel import KernelSide
from agent.latecomers import let_in
from agent.model.listener import Datagrams, Listener, Side
from agent.net.sockets import open_datagrams, open_listener
from agent.supervisor.crew import Crew


def make_listener(namespaces: Mapping[Side, str], row: Listener | Datagrams) -> socket.socket:
    """One of a worker's. Raises OSError, which says what is taken and how to see by whom."""
    netns = namespaces[row.side]
    try:
        if isinstance(row, Datagrams):
            return open_datagrams(netns, row.port)
        return open_listener(netns, row.port, transparent=True, reuse_port=True)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        name = PurePath(netns).name
        raise OSError(
            f"cannot listen on port {row.port} in the network namespace {name}: {error.strerror}; that namespace is "
            f"ztun's own: see who is in there by `ip netns exec {name} ss -ltunp`, and end it"
        ) from error


def rules_of(settings: Config) -> tuple[tuple[str, ...], int, int, bool, bool, str]:
    """What `KernelSide.own` is given. With `--local-path=host` workers dial their own listeners (proxy.crossing)."""
    is_by_ports = settings.local_path == "host"
    strangers = settings.stranger_rate, settings.stranger_burst
    is_dns_open = settings.dns_fail == "open"
    return settings.allow_encapsulation, *strangers, is_by_ports, is_dns_open, settings.host_traffic


async def prepare_company(settings: Config, kernel: KernelSide, crew: Crew) -> None:
    """What goes with listeners, before the workers are mustered: the table of who has proven itself, keys, and rings.

    Rings of an earlier agent stay, or go where none are wanted. Raises RedirectError, OSError.
    """
    crew.ring_readers.members = await kernel.run(lambda redirection: redirection.descriptor("members"))
    if settings.local_path == "host":
        crew.ring_readers.choice_key = await kernel.run(lambda redirection: redirection.conf().choice_key)
    count = settings.worker_count if settings.honest_connect != "off" else 0
    rings = await kernel.run(lambda redirection: redirection.rings(count))
    if count:
        crew.hold_syns(rings)
    else:
        rings.close()


async def open_slots(settings: Config, kernel: KernelSide, crew: Crew) -> None:
    """Once the workers serve: their listeners into the slots of the kernel side; who waited for that is let in.

    Raises RedirectError, OSError.
    """
    slots = {name: sock.fileno() for name, sock in crew.listeners().items()}
    takers = [{name: sock.fileno() for name, sock in socks.items()} for socks in crew.every_owners()]
    have_rings = settings.honest_connect != "off"
    # First who takes what: from the slots on connections come, and what a worker dials to itself must find it.
    await kernel.run(lambda redirection: redirection.set_takers(takers, have_rings=have_rings))
    await kernel.run(lambda redirection: redirection.set_listeners(slots))
    await kernel.run(let_in)
