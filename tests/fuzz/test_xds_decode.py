"""Arbitrary bytes as xDS resources: a value or a DecodeError, never anything else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.pb import authorization_pb2, workload_pb2
from tests.fuzz.of_the_plane import xds_address, xds_policy

ENUM = st.integers(-3, 9)
PORT = st.integers(0, 2**32 - 1) | st.integers(0, 65535)
IP_BYTES = st.binary(max_size=17) | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
TEXT = st.text(max_size=6)


def some(**fields):
    """A message as a dict, with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


NETWORK_ADDRESS = some(network=TEXT, address=IP_BYTES, length=st.integers(0, 140))
GATEWAY = some(hbone_mtls_port=PORT) | some(address=NETWORK_ADDRESS, hbone_mtls_port=PORT)
PORTS = st.lists(some(service_port=PORT, target_port=PORT, app_protocol=ENUM), max_size=2)
WORKLOADS = some(
    uid=st.just("u"),
    addresses=st.lists(IP_BYTES, max_size=2),
    tunnel_protocol=ENUM,
    status=ENUM,
    network_mode=ENUM,
    workload_type=ENUM,
    waypoint=GATEWAY,
    network_gateway=GATEWAY,
    services=st.dictionaries(TEXT | st.just("a/b"), some(ports=PORTS), max_size=2),
    application_tunnel=some(protocol=ENUM, port=PORT),
    capacity=some(value=PORT),
)
SERVICES = some(
    hostname=TEXT,
    addresses=st.lists(NETWORK_ADDRESS, max_size=2),
    ports=PORTS,
    waypoint=GATEWAY,
    load_balancing=some(routing_preference=st.lists(ENUM, max_size=2), mode=ENUM, health_policy=ENUM),
    ip_families=ENUM,
    visibility=ENUM,
    weighted_waypoints=st.lists(some(destination=GATEWAY, weight=PORT), max_size=2),
)
STRINGS = st.lists(st.sampled_from([{}, {"exact": "a"}, {"prefix": ""}, {"presence": {}}]), max_size=2)
IPS = st.lists(some(address=IP_BYTES, length=st.integers(0, 140)), max_size=2)
MATCHES = some(
    namespaces=STRINGS,
    not_principals=STRINGS,
    source_ips=IPS,
    not_destination_ips=IPS,
    destination_ports=st.lists(PORT, max_size=2),
)
POLICIES = some(
    name=TEXT,
    scope=ENUM,
    action=ENUM,
    rules=st.lists(
        some(clauses=st.lists(some(matches=st.lists(MATCHES, max_size=2)), max_size=2)), max_size=2
    ),
)


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_arbitrary_bytes(raw: bytes) -> None:
    xds_address(raw)
    xds_policy(raw)


@settings(max_examples=200)
@given(some(workload=WORKLOADS) | some(service=SERVICES), st.data())
def test_well_formed_and_cut_addresses(fields, data) -> None:
    raw = workload_pb2.Address(**fields).SerializeToString()
    xds_address(raw)
    xds_address(raw[: data.draw(st.integers(0, len(raw)))])


@settings(max_examples=200)
@given(POLICIES, st.data())
def test_well_formed_and_cut_policies(fields, data) -> None:
    raw = authorization_pb2.Authorization(**fields).SerializeToString()
    xds_policy(raw)
    xds_policy(raw[: data.draw(st.integers(0, len(raw)))])
