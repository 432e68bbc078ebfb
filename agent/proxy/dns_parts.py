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
        self._doors: list[DatagramDoor] = []
        """All that there ever were: one for each time that a set of listeners came."""

    def door(self, sock: socket.socket) -> DatagramDoor:
        made = UdpClients(self.service.loop, sock, self.service).door
        self._doors.append(made)
        return made

    def accepted(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress) -> None:
        self.tcp.accepted(sock, peer, local)

    def forget(self) -> None:
        self.service.forget()

    def samples(self) -> Iterable[Sample]:
        yield from self.service.figures.samples()
        yield families.DNS_UNDER_WAY, (), self.service.forwarded_now
        yield families.DNS_UNSENT, (), sum(door.unsent for door in self._doors)
