"""The largest packets of a pod, from its interface, its routes and the node's end of its veth."""

from __future__ import annotations

import pytest

from redirect.packet_size import PacketSize, RouteSize, of_link, of_pod

ROWS = [
    pytest.param(1500, 4, [], PacketSize(1500, 1460), id="an interface alone, IPv4"),
    pytest.param(1500, 6, [], PacketSize(1500, 1440), id="an interface alone, IPv6"),
    pytest.param(9000, 4, [RouteSize(4)], PacketSize(9000, 8960), id="a route that says nothing"),
    pytest.param(9000, 4, [RouteSize(4, 1400)], PacketSize(1400, 1360), id="a route with an MTU"),
    pytest.param(
        9000, 4, [RouteSize(4, 8000), RouteSize(4, 1400)], PacketSize(1400, 1360), id="the least of two"
    ),
    pytest.param(1500, 4, [RouteSize(4, 9000)], PacketSize(1500, 1460), id="more than the interface takes"),
    pytest.param(1500, 4, [RouteSize(6, 1300)], PacketSize(1500, 1460), id="of the other family"),
    pytest.param(1500, 4, [RouteSize(4, 0, 1200)], PacketSize(1500, 1200), id="advmss limits what comes"),
    pytest.param(
        1500, 4, [RouteSize(4, 1400, 1400)], PacketSize(1400, 1360), id="advmss larger than what fits"
    ),
    pytest.param(68, 6, [], PacketSize(68, 48), id="never less than Linux believes"),
]


@pytest.mark.parametrize(("link", "version", "routes", "size"), ROWS)
def test_what_the_pod_itself_would_send_and_announce(
    link: int, version: int, routes: list[RouteSize], size: PacketSize
) -> None:
    assert of_pod(link, version, routes) == size


def test_the_nodes_end_of_the_veth_only_lessens() -> None:
    assert of_link(1500, 4).within(9000, 4) == PacketSize(1500, 1460)
    assert PacketSize(9000, 1200).within(1400, 6) == PacketSize(1400, 1200)
    assert PacketSize(9000, 8940).within(1400, 6) == PacketSize(1400, 1340)
