"""Manifests into pods and Services of the lab; what is wrong in them is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.lab import blueprint, firewall
from agent.lab.blueprint import LabError, generate, parse
from agent.lab.firewall import Denied
from agent.model.address import parse_ip


def pod(name: str = "web", **changes: Any) -> dict[str, Any]:
    document = {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "node-a",
            "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd01::1"}]},
    }
    return document | changes


def service(**spec: Any) -> dict[str, Any]:
    base = {"clusterIPs": ["10.96.0.1", "fd96::1"], "selector": {"app": "web"}}
    base["ports"] = [{"port": 80, "targetPort": "http", "nodePort": 30000}]
    return {"kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": base | spec}


def test_a_service_finds_its_endpoints_by_label_and_named_port() -> None:
    found = parse(
        [
            pod(),
            pod("other", metadata={"name": "other", "namespace": "shop"}, status=one_ip("10.1.0.2")),
            service(),
        ]
    )
    web = found.services[0]
    assert [(p.key, str(ip), port) for p, ip, port in found.endpoints(web, web.ports[0], 6)] == [
        ("shop/web", "fd01::1", 8080)
    ]


def one_ip(text: str) -> dict[str, Any]:
    return {"podIPs": [{"ip": text}]}


def test_a_pod_of_another_namespace_is_no_endpoint() -> None:
    far = pod(metadata={"name": "web", "namespace": "far", "labels": {"app": "web"}})
    found = parse([far, service()])
    web = found.services[0]
    assert found.endpoints(web, web.ports[0], 4) == []


@pytest.mark.parametrize(
    "spec", [{"clusterIPs": ["None"]}, {"selector": None}, {"clusterIPs": None, "clusterIP": "None"}]
)
def test_headless_and_selectorless_services_need_no_nat(spec: dict[str, Any]) -> None:
    assert parse([pod(), service(**spec)]).services == ()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([pod(spec={"nodeName": "node-z"})], "pod shop/web: spec.nodeName is 'node-z'"),
        ([pod(spec={})], "pod shop/web: spec.nodeName is None"),
        ([pod(status={})], "pod shop/web: status.podIPs is missing"),
        ([pod(status=one_ip("10.1.0.300"))], "shop/web: '10.1.0.300' is not an IP address"),
        ([pod(), pod("twin")], "10.1.0.1 belongs to pod shop/web and to pod shop/twin"),
        ([pod(), pod(status=one_ip("10.1.0.2"))], "shop/web belongs to pod shop/web"),
        ([pod(), service(clusterIPs=["nonsense"])], "shop/web: 'nonsense' is not an IP address"),
    ],
)
def test_what_is_wrong_is_named(documents: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(LabError, match=message.replace(".", r"\.")):
        parse(documents)


def test_a_directory_is_read_and_an_empty_or_broken_one_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no manifests in"):
        blueprint.read(tmp_path)
    blueprint.write(generate(2), tmp_path / "pods.yaml")
    assert len(blueprint.read(tmp_path).pods) == 4
    (tmp_path / "zz.yml").write_text("a: [")
    with pytest.raises(LabError, match=r"zz\.yml is not YAML"):
        blueprint.read(tmp_path)


def test_generated_pods_scale_without_a_clash() -> None:
    found = parse(generate(600))
    assert len(found.pods) == 1200
    assert len({ip for pod in found.pods for ip in pod.addresses}) == 2400
    assert len(found.endpoints(found.services[0], found.services[0].ports[0], 4)) == 1200


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_a_senseless_number_of_pods_is_refused(count: int) -> None:
    with pytest.raises(LabError, match=f"--pods {count}"):
        generate(count)


def test_local_traffic_policy_keeps_to_the_node_and_to_the_clients_address() -> None:
    far = pod("far", spec={"nodeName": "node-b"}, status=one_ip("10.1.0.2"))
    rules = firewall.services_ruleset(
        "t",
        parse(
            [
                pod(),
                far,
                service(
                    externalTrafficPolicy="Local", ports=[{"port": 80, "targetPort": 8080, "nodePort": 30000}]
                ),
            ]
        ),
        "node-a",
    )
    chain = rules.split("chain s0v4np {")[1].split("}\n")[0]
    assert "mod 1" in chain and "mark" not in chain
    assert "mod 2" in rules.split("chain s0v4 {")[1].split("}\n")[0]


def test_denied_pairs_become_drops_in_forward() -> None:
    text = firewall.policy_ruleset("t", [Denied(parse_ip("fd01::1"), parse_ip("fd01::2"), 80)])
    assert "ip6 saddr fd01::1 ip6 daddr fd01::2 tcp dport 80 counter drop" in text
