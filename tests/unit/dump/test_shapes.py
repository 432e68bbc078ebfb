"""Key by key: the names ztunnel gives, and which are left out while they are empty."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509

from agent import config
from agent.dump.mesh import service_row, workload_row
from agent.dump.pods import UP, PodFact, workload_state
from agent.dump.settings import INLINE, config_row, own_row, version_row
from agent.dump.text import written
from agent.model.service import Service
from agent.model.workload import Workload
from tests.support.dumped import connections, dump

DUMP = json.loads(dump())
WORKLOADS = {each["name"]: each for each in DUMP["workloads"]}
SERVICES = {each["name"]: each for each in DUMP["services"]}
POLICIES = {each["name"]: each for each in DUMP["policies"]}
SERVER_UID, BROKEN_UID = "Kubernetes//Pod/demo/server", "Kubernetes//Pod/demo/broken"


def test_a_workload_has_every_key_that_says_something() -> None:
    assert WORKLOADS["server"] == {
        "workloadIps": ["10.77.2.12"],
        "waypoint": {"destination": "demo/waypoint.demo.svc.cluster.local", "hboneMtlsPort": 15008},
        "protocol": "HBONE",
        "networkMode": "Standard",
        "uid": SERVER_UID,
        "name": "server",
        "namespace": "demo",
        "trustDomain": "cluster.local",
        "serviceAccount": "server",
        "workloadName": "server",
        "workloadType": "pod",
        "canonicalName": "server",
        "canonicalRevision": "latest",
        "node": "node-b",
        "applicationTunnel": {"protocol": "PROXY", "port": 9090},
        "authorizationPolicies": ["demo/only-client"],
        "status": "Healthy",
        "clusterId": "Kubernetes",
        "locality": {"region": "eu", "zone": "eu-1", "subzone": ""},
        "services": ["demo/web.demo.svc.cluster.local"],
        "capacity": 1,
    }
    assert WORKLOADS["far"]["networkGateway"] == {"destination": "west/10.99.9.9", "hboneMtlsPort": 15008}
    assert (WORKLOADS["far"]["network"], WORKLOADS["host"]["networkMode"]) == ("west", "HostNetwork")
    assert (WORKLOADS["host"]["protocol"], WORKLOADS["named"]["hostname"]) == ("TCP", "db.example.com")
    assert (WORKLOADS["broken"]["status"], WORKLOADS["broken"]["capacity"]) == ("Unhealthy", 3)


def test_what_is_empty_is_left_out_of_a_workload() -> None:
    bare = workload_row(Workload("u", "n", "ns"))
    assert bare == {
        "workloadIps": [],
        "protocol": "TCP",
        "networkMode": "Standard",
        "uid": "u",
        "name": "n",
        "namespace": "ns",
        "trustDomain": "cluster.local",
        "serviceAccount": "default",
        "workloadType": "deployment",
        "status": "Healthy",
        "clusterId": "Kubernetes",
        "capacity": 1,
    }
    assert workload_row(Workload("u", "n", "ns", capacity=0))["capacity"] == 0


def test_a_service_has_its_endpoints_with_their_state() -> None:
    web = SERVICES["web"]
    assert web.pop("endpoints") == {
        SERVER_UID: {"workloadUid": SERVER_UID, "port": {"80": 8080, "443": 8443}, "status": "Healthy"},
        BROKEN_UID: {"workloadUid": BROKEN_UID, "port": {"80": 8080}, "status": "Unhealthy"},
    }
    waypoint = {"destination": "demo/waypoint.demo.svc.cluster.local", "hboneMtlsPort": 15008}
    assert web == {
        "name": "web",
        "namespace": "demo",
        "hostname": "web.demo.svc.cluster.local",
        "vips": ["/10.96.77.10", "/fd77:96::10"],
        "ports": {"80": 8080, "443": 0},
        "subjectAltNames": ["spiffe://cluster.local/ns/demo/sa/server"],
        "waypoint": waypoint,
        "weightedWaypoints": [{"destination": waypoint, "weight": 3}],
        "loadBalancer": {
            "routingPreferences": ["Network", "Region"],
            "mode": "Failover",
            "healthPolicy": "OnlyHealthy",
        },
        "ipFamilies": "Dual",
        "canonical": True,
        "visibility": "Public",
    }
    assert SERVICES["waypoint"]["cidrVips"] == [{"network": "west", "cidr": "10.4.0.0/16"}]
    assert SERVICES["waypoint"]["visibility"] == "Namespace"
    assert service_row(Service("s", "ns", "s.ns"), {}).keys() == {
        "name", "namespace", "hostname", "vips", "ports", "endpoints", "subjectAltNames", "canonical", "visibility"
    }  # fmt: skip


def test_endpoints_of_a_service_that_nobody_described_are_staged() -> None:
    assert list(DUMP["stagedServices"]) == ["demo/west.demo.svc.cluster.local"]


def test_policies_are_rules_of_clauses_of_matches() -> None:
    (rule,) = POLICIES["only-client"]["rules"]
    every = rule[1][1]
    assert rule == [[{"destinationPorts": [9998]}], [{}, every]]
    assert every == {
        "namespaces": [{"Prefix": "de"}],
        "notNamespaces": [{"Suffix": "-old"}],
        "serviceAccounts": [{"namespace": "demo", "serviceAccount": "client"}],
        "notServiceAccounts": [{"namespace": "demo", "serviceAccount": "host"}],
        "principals": [{"Exact": "cluster.local/ns/demo/sa/client"}],
        "notPrincipals": [{"Presence": []}],
        "sourceIps": ["10.77.0.0/16"],
        "notSourceIps": ["fd77:9::/64"],
        "destinationIps": ["10.77.2.12/32"],
        "notDestinationIps": ["10.77.2.13/32"],
        "destinationPorts": [8080],
        "notDestinationPorts": [9998],
    }
    assert {name: (p["action"], p["scope"], p["dryRun"], p["rules"]) for name, p in POLICIES.items()} == {
        "only-client": ("Allow", "WorkloadSelector", False, [rule]),
        "nothing": ("Allow", "Namespace", False, []),
        "trial": ("Deny", "Global", True, [[]]),
    }


def test_a_certificate_is_pem_in_base64_with_a_decimal_serial_number() -> None:
    leaf = DUMP["certificates"][0]["certChain"][0]
    read = x509.load_pem_x509_certificate(base64.b64decode(leaf["pem"]))
    assert int(leaf["serialNumber"]) == read.serial_number
    assert (leaf["validFrom"], leaf["expirationTime"]) == ("2026-01-01T00:00:00Z", "2126-01-01T00:00:00Z")
    assert [each["state"] for each in DUMP["certificates"]] == [
        "Available",
        "Initializing",
        "Unavailable: the CA says no",
    ]


def test_pods_have_their_connections_by_direction() -> None:
    state = DUMP["workloadState"]
    client = state["7d1b2e1c-0000-4000-8000-000000000001"]
    assert client["state"] == "Up" and client["connections"]["inbound"] == []
    assert client["connections"]["outbound"][1] == {
        "src": "[fd77:1::11]:40002",
        "originalDst": "192.0.2.1:443",
        "actualDst": "192.0.2.1:443",
        "protocol": "TCP",
    }
    assert client["info"] == {
        "name": "client",
        "namespace": "demo",
        "serviceAccount": "client",
        "trustDomain": "cluster.local",
    }
    late = state["7d1b2e1c-0000-4000-8000-000000000003"]
    assert late["state"] == "Pending" and "connections" not in late
    assert "demo/waypoint" in state, "nobody knows its uid"


def test_connections_of_all_workers_are_one_list() -> None:
    pod = PodFact("demo", "client", UP)
    state = workload_state([pod], [*connections(), *connections()])
    assert len(state["demo/client"]["connections"]["outbound"]) == 4


def test_the_row_of_a_worker_of_an_older_version_has_no_service() -> None:
    (row,) = [row for row in connections() if row["pod"] == "demo/gone"]
    del row["service"]
    (state,) = workload_state([PodFact("demo", "gone", UP)], [row]).values()
    assert state["connections"]["inbound"][0]["originalDst"] == "10.77.2.99:80"


# Every field of ztunnel's config but those that are about what there is none of here.
CONFIG = [
    "proxy",
    "dnsProxy",
    "windowSize",
    "connectionWindowSize",
    "frameSize",
    "poolMaxStreamsPerConn",
    "poolUnusedReleaseTimeout",
    "socks5Addr",
    "adminAddr",
    "statsAddr",
    "readinessAddr",
    "inboundAddr",
    "inboundPlaintextAddr",
    "outboundAddr",
    "dnsProxyAddr",
    "illegalPorts",
    "network",
    "localNode",
    "proxyMode",
    "proxyWorkloadInformation",
    "clusterId",
    "clusterDomain",
    "caAddress",
    "caRootCert",
    "altCaHostname",
    "xdsAddress",
    "xdsRootCert",
    "altXdsHostname",
    "preferedServiceNamespace",
    "secretTtl",
    "xdsOnDemand",
    "fakeCa",
    "fakeSelfInbound",
    "selfTerminationDeadline",
    "proxyMetadata",
    "numWorkerThreads",
    "requireOriginalSource",
    "inpodUds",
    "packetMark",
    "socketConfig",
    "xdsHeaders",
    "caHeaders",
    "localhostAppTunnel",
    "ipv6Enabled",
    "crlPath",
    "enableEnhancedBaggage",
]


def test_the_options_are_there_under_ztunnels_names_and_under_ours() -> None:
    settings = config.build(
        {"node": "n1", "pool_idle_s": "90.5", "workers": "3", "node_metadata": '{"a": "b"}'}
    )
    row = config_row(settings)
    assert list(row) == CONFIG
    assert row["poolUnusedReleaseTimeout"] == {"secs": 90, "nanos": 500_000_000}
    assert (row["numWorkerThreads"], row["localNode"], row["proxyMetadata"]) == (3, "n1", {"a": "b"})
    assert own_row(settings).keys() == config.options().keys()
    assert list(version_row(settings)) == (
        [
            "version",
            "gitRevision",
            "rustVersion",
            "buildProfile",
            "buildStatus",
            "istioVersion",
            "cryptoProvider",
        ]
    )
    told = config.build({"node_metadata": '{"ISTIO_VERSION": "1.30.0"}'})
    assert version_row(told)["istioVersion"] == "1.30.0"


def test_what_dns_goes_by_is_there_under_ztunnels_names() -> None:
    settings = config.build({"cluster_domain": "corp.example", "dns_preferred_namespace": "shop"})
    row = config_row(settings)
    assert (row["clusterDomain"], row["preferedServiceNamespace"]) == ("corp.example", "shop")
    assert config_row(config.build({}))["preferedServiceNamespace"] is None


def test_pem_in_place_of_a_path_is_not_shown() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    settings = config.build({"root_cert": pem})
    assert (config_row(settings)["xdsRootCert"], own_row(settings)["root_cert"]) == (INLINE, INLINE)
    assert "AAAA" not in json.dumps([config_row(settings), own_row(settings)])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (iter([{"a": "x\ny"}, 2]), [{"a": "x\ny"}, 2]),
        (iter(()), []),
        ({}, {}),
        ({"a": [1]}, {"a": [1]}),
        ("ü", "ü"),
    ],
)
def test_what_is_written_reads_as_it_was(value: Any, read: Any) -> None:
    text = written([("first", 1), ("second", value)])
    assert json.loads(text) == {"first": 1, "second": read}
    assert text == json.dumps({"first": 1, "second": read}, indent=2).encode() + b"\n"
