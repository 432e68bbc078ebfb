"""The doors in front of the listeners' handlers: who is counted where, and what is a proof of the control process."""

from __future__ import annotations

import socket

from agent.model.address import SocketAddress, parse_ip
from agent.model.connection import Direction
from agent.proxy.arrivals import Arrivals
from agent.proxy.tallies import Tallies

OWN = parse_ip("169.254.77.1")
POD, PEER = SocketAddress(parse_ip("10.77.0.9"), 40001), SocketAddress(parse_ip("10.88.0.7"), 8080)


def arrive(
    arrivals: Arrivals, direction: Direction, peer: SocketAddress, local: SocketAddress
) -> bytes | None:
    """What the other end reads after the connection was handed in; None: it is still open."""
    handed: list[socket.socket] = []
    here, there = socket.socketpair()
    with there:
        arrivals.door(direction, lambda sock, *_: handed.append(sock)).arrived(here, peer, local)
        there.setblocking(False)
        try:
            return there.recv(1)
        except BlockingIOError:
            assert handed == [here]
            return None
        finally:
            here.close()


def test_a_connection_counts_for_its_pod_and_is_handed_on() -> None:
    tallies = Tallies()
    arrivals = Arrivals({OWN}, tallies)
    assert arrive(arrivals, Direction.OUTBOUND, POD, PEER) is None
    assert arrive(arrivals, Direction.INBOUND, PEER, POD) is None
    assert arrive(arrivals, Direction.INBOUND, PEER, POD) is None
    assert tallies.rows() == [("10.77.0.9", [1, 2, 0, 0, 0, 0], "")]


def test_a_proof_is_closed_and_counts_for_nobody() -> None:
    tallies = Tallies()
    arrivals = Arrivals({OWN}, tallies)
    for direction in Direction:
        assert arrive(arrivals, direction, SocketAddress(OWN, 5), SocketAddress(OWN, 15001)) == b""
    assert tallies.rows() == []


def test_one_own_address_alone_is_no_proof() -> None:
    # A pod that dials the proxy's address, and a pod that is met by it (its own Service).
    arrivals = Arrivals({OWN}, Tallies())
    assert arrive(arrivals, Direction.OUTBOUND, POD, SocketAddress(OWN, 15001)) is None
    assert arrive(arrivals, Direction.INBOUND, SocketAddress(OWN, 5), POD) is None


def test_a_pod_that_left_is_forgotten() -> None:
    tallies = Tallies()
    arrivals = Arrivals({OWN}, tallies)
    arrive(arrivals, Direction.OUTBOUND, POD, PEER)
    tallies.forget([POD.ip])
    assert tallies.rows() == []
