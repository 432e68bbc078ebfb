"""The real istioctl, pointed at live agents: its five tables, and the levels of a log that it changes.

`ZTUN_INTEROP_ISTIOCTL` names the program (`scripts/istiod-build --istioctl`). It reaches an agent as in a cluster, by
an API server that forwards to a port of a pod; that server is the test's here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dumped import VECTORS
from tests.support.istioctl import Istioctl, named_program
from tests.support.istioctl_tables import COLUMNS, TABLES, printed
from tests.support.labmesh import OWN_VIP, VIP4, World, policy_manifest, principal, running
from tests.support.labtraffic import until
from tests.support.node_api import NodeApi

NODE, POD = "node-a", "ztunnel-a"
Raw = dict[str, Any]


@pytest.fixture(scope="module")
def program() -> Path:
    return named_program()


@pytest.fixture(scope="module")
def world(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running("t", tmp_path_factory.mktemp("istioctl")) as made:
        yield made


@pytest.fixture
def api(world: World) -> Iterator[NodeApi]:
    meta = {"namespace": "istio-system", "labels": {"app": "ztunnel"}}
    template = {"metadata": {"labels": meta["labels"]}, "spec": {"containers": [{"name": "istio-proxy"}]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**meta, "name": POD},
        "spec": {"nodeName": NODE, "containers": [{"name": "istio-proxy", "image": "none"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {**meta, "name": "ztunnel"},
        "spec": {"selector": {"matchLabels": meta["labels"]}, "template": template},
    }
    made = NodeApi([pod, daemons], lambda _: world.dial(NODE, "127.0.0.1", 15000))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def istioctl(program: Path, api: NodeApi, tmp_path: Path) -> Istioctl:
    return Istioctl(program, tmp_path, api.url)


@pytest.mark.parametrize("name", TABLES)
def test_it_prints_of_the_recorded_dump_what_is_recorded(program: Path, name: str, tmp_path: Path) -> None:
    """So the recordings, which are compared where there is no istioctl, are its own."""
    said = Istioctl(program, tmp_path)("ztunnel-config", name, "-f", str(VECTORS / "dump.json"))
    assert said == (VECTORS / f"{name}.txt").read_text()


@pytest.fixture
def busy(world: World) -> Iterator[World]:
    """Something to show in each table."""
    text = policy_manifest("for-client", principal("client"))
    with (
        world.manifest("for-client", text),
        world.talk("client-a", VIP4, 80) as outbound,
        world.talk("client-b", OWN_VIP, 80) as inbound,
    ):
        outbound.say()
        inbound.say()
        until(lambda: json.loads(world.http(NODE, 15000, "/config_dump")[1])["policies"], "the policy")
        yield world


@pytest.mark.kernel
def test_its_tables_of_a_live_agent_are_whole(busy: World, istioctl: Istioctl) -> None:
    tables = {name: printed(istioctl("ztunnel-config", name, f"{POD}.istio-system")) for name in TABLES}
    for name, rows in tables.items():
        assert rows and tuple(rows[0]) == COLUMNS[name], name
        assert not [row for row in rows if not all(row.values())], name
    assert {row["PROTOCOL"] for row in tables["connections"]} == {"HBONE"}
    assert {(row["TYPE"], row["STATUS"], row["VALID CERT"]) for row in tables["certificates"]} == {
        ("Leaf", "Available", "true"),
        ("Root", "Available", "true"),
    }
    whole = json.loads(istioctl("ztunnel-config", "all", f"{POD}.istio-system", "-o", "json"))
    assert {row["name"] for row in whole["policies"]} == {"for-client"}
    services = yaml.safe_load(istioctl("ztunnel-config", "services", "--node", NODE, "-o", "yaml"))
    assert {row["name"] for row in services} == {"server", "own"}


@pytest.mark.kernel
def test_its_filters_find_what_they_ask_for(busy: World, istioctl: Istioctl) -> None:
    def names(table: str, column: str, *flags: str) -> set[str]:
        return {row[column] for row in printed(istioctl("ztunnel-config", table, *flags))}

    assert names("workloads", "POD NAME", "--address", busy.address("server-b")) == {"server-b"}
    on_b = {f"{account}-b" for account in ("client", "server", "outsider", "spare")}
    assert names("workloads", "POD NAME", "--workload-node", "node-b") == on_b
    assert names("services", "NAMESPACE", "--service-namespace", "demo") == {"demo"}
    assert names("policies", "POLICY NAME", "--policy-namespace", "demo") == {"for-client"}
    assert names("connections", "WORKLOAD", "--direction", "inbound") == {"server-a.demo"}
    raw = printed(istioctl("ztunnel-config", "connections", "--direction", "outbound", "--raw"))
    assert raw[0]["REMOTE TARGET"] == f"{VIP4}:80" and raw[0]["LOCAL"].startswith(
        f"{busy.address('client-a')}:"
    )


@pytest.mark.kernel
def test_it_changes_the_levels_of_the_log(world: World, istioctl: Istioctl) -> None:
    log = world.log(NODE)
    try:
        said = istioctl("ztunnel-config", "log", f"{POD}.istio-system", "--level", "access:debug,info")
        assert "access=debug" in said and "info" in said, said
        world.ask("client-a", VIP4, 80)
        assert log.line("connection opened", 'src.workload="client-a"')
    finally:
        said = istioctl("ztunnel-config", "log", f"{POD}.istio-system", "--reset")
    assert "debug" not in said, said
