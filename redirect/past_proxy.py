"""Connections that go past the proxy into a pod, ended with both of their ends told.

Once the pod is captured again its programs give the client's packets to the proxy, which knows nothing of the
connection and resets the client, and drop what the pod answers until the pod's socket is destroyed: its reset alone
goes out. So nobody is left who waits for an answer for ever.
"""

from __future__ import annotations

from collections.abc import Collection

from redirect import netns, sock_diag
from redirect.layout import HOOK_TO_POD, IP, FlowKey
from redirect.locate import namespace_behind
from redirect.maps import Maps
from redirect.sock_diag import TcpSocket

_TCP = 6


def end(maps: Maps, ifindex: int, addresses: Collection[IP]) -> int:
    """Destroys the pod's sockets of connections that went past the proxy; how many. Raises OSError.

    Those that the kernel does not destroy, and all where the pod's namespace is not found, are forgotten: what either
    of their ends sends meets the proxy, and resets it.
    """
    namespace = namespace_behind(ifindex)
    if namespace is None:
        forgotten = [
            key for key, noted in maps.host_flows() if not noted.ifindex and key.destination in addresses
        ]
        for key in forgotten:
            maps.delete_host_flow(key)
        return 0
    with netns.entered(namespace):
        done = sock_diag.destroy_where(lambda socket: _is_noted(maps, socket, addresses))
    for socket, is_destroyed in done.items():
        if not is_destroyed:
            maps.delete_host_flow(_flow(socket))
    return sum(done.values())


def _is_noted(maps: Maps, socket: TcpSocket, addresses: Collection[IP]) -> bool:
    if socket.local not in addresses:
        return False
    noted = maps.host_flow(_flow(socket))
    return noted is not None and not noted.ifindex


def _flow(socket: TcpSocket) -> FlowKey:
    """As to_pod sees it."""
    return FlowKey(socket.remote, socket.local, socket.remote_port, socket.local_port, _TCP, HOOK_TO_POD)
