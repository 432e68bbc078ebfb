"""What answers captured DNS, put together: loaded by `dns_door` where it is needed, and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from agent.model.address import SocketAddress
from agent.net.datagrams import DatagramDoor
from agent.proxy.dns_clients import TcpClients, UdpClients
from agent.proxy.dns_service import DnsService
from agent.telemetry import families
from agent.telemetry.metrics import Sample


class DnsParts:
    """Is the `Resolver` of a door."""

    def __init__(self, service: DnsService) -> None:
        self.service = service
        self.tcp = TcpClients(service.loop, service)

    def door(self, sock: socket.socket) -> DatagramDoor:
        return UdpClients(self.service.loop, sock, self.service).door

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        self.tcp.accepted(sock, peer, local)

    @property
    def connections(self) -> int:
        return len(self.tcp.open)

    def forget(self) -> None:
        self.service.forget()

    def samples(self) -> Iterable[Sample]:
        yield from self.service.figures.samples()
        yield families.DNS_UNDER_WAY, (), self.service.forwarded_now
