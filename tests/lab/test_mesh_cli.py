"""What an operator sees: the command line, readiness and metrics of a mesh that runs, and of one that does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.cli.map_fields import FIELDS
from agent.cli.status import dead
from agent.controlplane.read.manifests import parse
from agent.controlplane.read.objects import Pod
from agent.lab.agents import ZTUN
from agent.lab.naming import RUN_ROOT
from redirect import netns
from tests.support.istioctl_tables import TABLES
from tests.support.labmesh import OWN_VIP, VIP4, World, policy_manifest, principal
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel
SERVER_HOST = "server.demo.svc.cluster.local"

STATUS_LINE = re.compile(
    r"READY gen=[0-9a-f]{4} pods=2/2 xds=synced certs=2 min=\d+h(\d+m)? drops/s=\d+(\.\d+)? form=(pure|compiled:\d+)\n"
)


def test_status_is_one_line(world: World) -> None:
    done = world.cli("status", node="node-a")
    assert done.returncode == 0 and STATUS_LINE.fullmatch(done.stdout), done.stdout


def test_status_as_json_names_pods_workers_and_services(world: World) -> None:
    answer = json.loads(world.cli("status", "-o", "json", node="node-a").stdout)
    assert answer["state"] == "READY" and answer["node"] == "node-a"
    assert list(answer) == list(dead("why")), "a dead one is shown in the same shape"
    assert {pod["pod"]: pod["identity"] for pod in answer["pods"]} == {
        "demo/client-a": "spiffe://cluster.local/ns/demo/sa/client",
        "demo/server-a": "spiffe://cluster.local/ns/demo/sa/server",
    }
    assert len(answer["workers"]) == 2
    assert answer["services"]["demo/server.demo.svc.cluster.local"] == ["10.96.77.10", "fd77:96::10"]


def test_status_of_an_agent_that_is_not_there_is_dead(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ZTUN, "status", "--run-dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert done.stdout.startswith("DEAD no agent answers on ") and done.stdout.count("\n") == 1


def test_the_manifest_of_a_running_pod_is_printed(world: World) -> None:
    pod = world.pod("spare-b")
    with netns.entered(world.node("node-b").netns):
        where = ("--netns", str(pod.netns), "--node", "node-b", "--label", "app=made")
        done = world.cli("pod-manifest", "demo/made", *where)
    assert done.returncode == 0, done.stderr
    (made,) = parse("pod.yaml", done.stdout).objects
    assert isinstance(made, Pod)
    assert (str(made.meta), made.node, made.meta.labels) == ("Pod demo/made", "node-b", {"app": "made"})
    assert made.ips == pod.addresses


def test_the_manifest_is_written_whole_into_the_directory_that_is_served(world: World) -> None:
    """As often as anybody likes: the control plane never meets half a file, or one that is empty."""
    pod = world.pod("spare-b")
    path = world.mesh.manifests / "made.yaml"
    plane = world.mesh.log("control-plane")
    start = plane.stat().st_size
    where = ("--netns", str(pod.netns), "--node", "node-b")
    try:
        with netns.entered(world.node("node-b").netns):
            for _ in range(5):
                done = world.cli("pod-manifest", "demo/spare-b", *where, "--out", str(path))
                assert (done.returncode, done.stdout) == (0, f"wrote {path}\n"), done.stderr
            printed = world.cli("pod-manifest", "demo/spare-b", *where).stdout
        assert path.read_text() == printed and path.stat().st_mode & 0o777 == 0o644
        assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []
        until(lambda: "made.yaml" in plane.read_text()[start:], "the second Pod of that name is refused")
    finally:
        path.unlink(missing_ok=True)
    assert "empty" not in plane.read_text()[start:]


def test_several_pods_are_enrolled_and_let_go_in_one_call(world: World) -> None:
    names = ["demo/spare-a", "demo/nobody", "demo/outsider-a"]
    places = [part for name in names for part in ("--ifname", f"pod-{name.removeprefix('demo/')}")]
    try:
        done = world.cli("enroll", *names, *places, node="node-a")
        assert [line.split()[1] for line in done.stdout.splitlines()] == ["demo/spare-a", "demo/outsider-a"]
        assert done.returncode == 1 and "pod-nobody" in done.stderr and done.stderr.count("\n") == 1
        assert world.ask("outsider-a", world.address("server-b")) == world.address("outsider-a")
    finally:
        done = world.cli("unenroll", "demo/spare-a", "demo/outsider-a", "demo/nobody", node="node-a")
    assert done.stdout == "un-enrolled demo/spare-a\nun-enrolled demo/outsider-a\n"
    assert done.returncode == 1 and "demo/nobody is not enrolled here" in done.stderr
    for pod in ("demo/spare-a", "demo/outsider-a"):
        for node in world.lab.nodes:
            until(
                lambda n=node, p=pod: p not in world.mesh.ask(n, "GET", "/announced"),
                "peers use plaintext again",
            )


def test_a_second_agent_is_told_which_ports_are_taken_and_by_which_flags_they_move(
    world: World, tmp_path: Path
) -> None:
    with netns.entered(world.node("node-a").netns):
        done = world.cli(
            *("agent", "--node", "x", "--instance", f"hj{os.getpid()}x", "--run-dir", str(tmp_path)),
            *("--root-cert", str(world.mesh.state_dir / "root.pem")),
        )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "ztun: --admin-address: cannot listen on 127.0.0.1:15000: Address already in use; "
        "--metrics-address: cannot listen on [::]:15020: Address already in use; "
        "--readiness-address: cannot listen on [::]:15021: Address already in use; another agent of this machine? "
        "choose another port with each flag, or off",
    )


def test_what_the_agent_holds_is_listed(world: World) -> None:
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        lists = {
            name: json.loads(world.cli(name, "-o", "json", node="node-b").stdout)[name]
            for name in ("connections", "tunnels", "certificates", "policies", "services")
        }
        table = world.cli("connections", node="node-b").stdout
        certificates = world.cli("certificates", node="node-b").stdout
    fields = {field for rows in lists.values() for row in rows for field in row}
    assert not [field for field in fields if not re.fullmatch(r"[a-z]+(_[a-z]+)*", field)], "snake_case"
    pod = world.address("server-b")
    (connection,) = lists["connections"]
    assert (connection["direction"], connection["original_dst"]) == ("inbound", f"{pod}:8080")
    client = "spiffe://cluster.local/ns/demo/sa/client"
    assert (connection["pod"], connection["client"]) == ("demo/server-b", client)
    assert connection["src"] in table and table.startswith("POD ")
    assert {row["peer"] for row in lists["tunnels"]} == {"spiffe://cluster.local/ns/demo/sa/client"}
    assert [row["state"] for row in lists["certificates"]] == ["Available", "Available"]
    assert re.match(r"IDENTITY +STATE +LEFT +", certificates) and " 23h5" in certificates
    assert lists["policies"] == []
    services = {row["service"]: row for row in lists["services"]}
    assert services["demo/own"]["endpoints"] == ["demo/server-a"]


def test_the_maps_are_shown_as_named_fields(world: World) -> None:
    rows = json.loads(world.cli("maps", "list", "-o", "json", node="node-a").stdout)["maps"]
    entries = {row["name"]: row["entries"] for row in rows}
    assert entries["pods"] == 4 and entries["ifaces"] == 2
    table = world.cli("maps", "dump", "pods", node="node-a").stdout.splitlines()
    assert table[0].split() == ["ADDRESS", "FLAGS", "IFINDEX", "MTU_BYTES", "MSS_BYTES", "POD_MAC", "HOP_MAC"]
    assert any(line.split()[:2] == [world.address("client-a"), "ENROLLED"] for line in table)
    done = world.cli("maps", "lookup", "pods", world.address("server-a", 6), "-o", "json", node="node-a")
    (row,) = json.loads(done.stdout)["pods"]
    assert (row["address"], row["flags"]) == (world.address("server-a", 6), "ENROLLED")


def test_every_map_can_be_dumped(world: World) -> None:
    done = world.cli("maps", "dump", "-o", "json", node="node-a")
    dumped = json.loads(done.stdout)
    assert {"pods", "ifaces", "conf", "socks", "hostips", "hostflows", "passthru", "stats"} <= set(dumped)
    for name, rows in dumped.items():
        assert all(set(row) == set(FIELDS[name]) for row in rows), name
    assert {row["listener"] for row in dumped["socks"] if row["filled"]} == {"outbound", "hbone", "plaintext"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["maps", "dump", "nosuch"], "no map 'nosuch'; there are "),
        (
            ["maps", "dump", "wanted", "--where", "nosuch=1"],
            "no field 'nosuch'; there are ifindex, address",
        ),
        (["maps", "lookup", "pods", "192.0.2.1"], "map pods has no entry for 192.0.2.1"),
    ],
)
def test_questions_to_the_maps_that_have_no_answer(world: World, arguments: list[str], reason: str) -> None:
    done = world.cli(*arguments, node="node-a")
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr and done.stderr.count("\n") == 1


def test_who_closes_the_output_misses_nothing(world: World) -> None:
    where = ("--run-dir", str(world.mesh.run_dir("node-a")), "--instance", world.mesh.instance("node-a"))
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *ZTUN, "maps", "list", *where],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_maps_of_an_instance_that_never_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ZTUN, "maps", "--instance", "hjnobody", "--run-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "no pinned maps" in done.stderr and done.stderr.count("\n") == 1


def test_readiness_and_admin_answer_where_they_should(world: World) -> None:
    assert world.http("node-a", 15021, "/healthz/ready") == (200, "ready\n")
    status, body = world.http("node-a", 15000, "/status")
    assert status == 200 and json.loads(body)["state"] == "READY"
    assert world.http("node-a", 15000, "/enroll")[0] == 404, "what changes something is for the unix socket"


def test_istioctl_finds_every_column_in_the_dump_of_a_live_agent(world: World) -> None:
    def dump() -> Any:
        status, body = world.http("node-a", 15000, "/config_dump")
        assert status == 200
        return json.loads(body)

    policy = policy_manifest("for-client", principal("client", "server"))
    with (
        world.manifest("policy", policy),
        world.talk("client-a", VIP4, 80) as outbound,
        world.talk("client-b", OWN_VIP, 80) as inbound,
    ):
        outbound.say()
        inbound.say()
        client = f"client-a.demo:{outbound.address.rpartition(':')[2]}"
        found = until(lambda: (found := dump())["policies"] and found, "the policy")
    tables = {name: table(found, datetime.now(UTC)) for name, table in TABLES.items()}
    for name, rows in tables.items():
        assert rows and not [row for row in rows if not all(row.values())], name
    ends = {
        (row["WORKLOAD"], row["DIRECTION"], row["LOCAL"], row["REMOTE TARGET"])
        for row in tables["connections"]
    }
    assert ("client-a.demo", "Outbound", client, f"{SERVER_HOST}:80") in ends
    assert ("server-a.demo", "Inbound", "server-a.demo:8080", "own.demo.svc.cluster.local") in ends
    assert {row["PROTOCOL"] for row in tables["connections"]} == {"HBONE"}
    assert {(row["TYPE"], row["STATUS"], row["VALID CERT"]) for row in tables["certificates"]} == {
        ("Leaf", "Available", "true"),
        ("Root", "Available", "true"),
    }
    assert [(row["POLICY NAME"], row["ACTION"], row["SCOPE"]) for row in tables["policies"]] == [
        ("for-client", "Allow", "WorkloadSelector")
    ]
    assert {row["POD NAME"]: (row["NODE"], row["PROTOCOL"]) for row in tables["workloads"]}["server-b"] == (
        "node-b",
        "HBONE",
    )


def test_levels_of_the_log_change_in_all_processes_for_root_alone(world: World) -> None:
    def post(what: str) -> tuple[int, str]:
        return world.http("node-a", 15000, f"/logging?{what}", method="POST")

    log = world.log("node-a")
    assert world.http("node-a", 15000, "/logging")[0] == 405
    code = (
        "import http.client; c = http.client.HTTPConnection('127.0.0.1', 15000);"
        "c.request('POST', '/logging?level=off'); print(c.getresponse().status)"
    )
    with netns.entered(world.node("node-a").netns):
        somebody = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", code], user=65534, capture_output=True, text=True, check=True
        )
    assert somebody.stdout == "403\n"
    try:
        assert post("level=access=debug,rpc=debug") == (
            200,
            "current log level is info,access=debug,rpc=debug\n",
        )
        until(
            lambda: world.ask("client-a", world.address("server-b")) and log.lines("connection opened"),
            "a worker",
        )
    finally:
        assert post("reset") == (200, "current log level is info\n")


def test_metrics_tell_workloads_and_protection(world: World) -> None:
    def opened(client: str, server: str, policy: str, node: str = "node-b") -> float:
        return world.metric(
            node,
            "istio_tcp_connections_opened_total",
            reporter="destination",
            source_workload=client,
            destination_workload=server,
            connection_security_policy=policy,
        )

    world.ask("client-a", world.address("server-b"))
    world.ask("outsider-a", world.address("server-b"))
    until(lambda: opened("client-a", "server-b", "mutual_tls") >= 1, "the tunnel is counted")
    until(lambda: opened("outsider-a", "server-b", "unknown") >= 1, "the plaintext is counted")
    _, body = world.http("node-b", 15020, "/metrics", accept="application/openmetrics-text")
    assert body.endswith("# EOF\n")
    assert world.metric("node-b", "ztun_redirect_packets_total", program="to_pod", reason="SYN_TO_PROXY") > 0


def test_the_maps_outlive_the_agent_and_status_says_dead(world: World) -> None:
    world.kill_all("node-a")
    try:
        assert world.cli("status", node="node-a").returncode == 4
        rows = json.loads(world.cli("maps", "dump", "pods", "-o", "json", node="node-a").stdout)["pods"]
        assert {row["address"] for row in rows} == {
            world.address(pod, version) for pod in ("client-a", "server-a") for version in (4, 6)
        }
        done = world.cli("enroll", "demo/spare-a", "--ifname", "pod-spare-a", node="node-a")
        assert done.returncode == 4 and done.stderr.count("\n") == 1 and "no agent answers" in done.stderr
    finally:
        world.restart("node-a")


def test_a_lab_is_built_used_and_removed_by_commands(world: World) -> None:
    name = f"hj{os.getpid()}l"
    try:
        done = world.cli("lab", "up", "--name", name, "--pods", "1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"lab {name} is up: 2 nodes, 2 pods\n")
        up = done.stdout
        again = world.cli("lab", "up", "--name", name)
        assert again.returncode == 1 and "is up already" in again.stderr and again.stderr.count("\n") == 1
        answer = json.loads(world.cli("lab", "status", "--name", name, "-o", "json").stdout)
        assert [row["pod"] for row in answer["pods"]] == ["lab/a1", "lab/b1"]
        shown = world.cli("lab", "status", "--name", name).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert all(row["netns"] in shown for row in (*answer["pods"], *answer["nodes"]))
        done = world.cli("control-plane", "status", "--lab", name)
        assert done.returncode == 0 and done.stdout.startswith("READY addresses="), done.stdout
        done = world.cli("status", "--lab", f"{name}/node-a")
        assert done.returncode == 0 and done.stdout.startswith("READY ")
        assert world.cli("maps", "--lab", f"{name}/a").returncode == 0
        assert f"/{name}/manifests" in shown and f"/{name}/logs" in shown
        node = ("--lab", f"{name}/node-a")
        # What `lab up` says, word by word; and break glass, whose interfaces are the node's own.
        enrol = next(line for line in up.splitlines() if line.startswith("  enrol:")).split()[2:]
        done = world.cli(*enrol)
        assert done.returncode == 0, done.stderr
        done = world.cli("bypass", *node, "lab/a1", "--for", "1m", "--reason", "why not")
        assert done.returncode == 0, done.stderr
        (opened,) = json.loads(world.cli("bypass", *node, "-o", "json").stdout)["bypasses"]
        assert opened["interface"] == answer["pods"][0]["interface"]
        ends_it = "`ztun bypass lab/a1 --off` ends it"
        until(lambda: ends_it in world.cli("status", *node).stdout, f"status says {ends_it}")
        assert world.cli("bypass", *node, "lab/a1", "--off").returncode == 0
        done = world.cli("lab", "exec", "--name", name, "lab/a1", "ip", "-br", "address")
        assert done.returncode == 0 and "10.64.0.1/32" in done.stdout
        done = world.cli("lab", "exec", "--name", name, "lab/a1", "--", "no-such-command", "--help")
        assert (done.returncode, done.stderr.count("\n")) == (127, 1)
        done = world.cli("lab", "exec", "--name", name, "lab/zzz", "true")
        assert done.returncode == 1 and "no pod or node 'lab/zzz'" in done.stderr
    finally:
        done = world.cli("lab", "down", "--name", name)
    assert (done.returncode, done.stdout) == (0, f"lab {name} is gone\n")
    assert not (RUN_ROOT / name).exists()
    assert not [path for path in netns.path_of(name).parent.iterdir() if path.name.startswith(name)]


@pytest.mark.parametrize("arguments", [["status"], ["exec", "demo/x", "true"]], ids=["status", "exec"])
def test_a_lab_that_is_not_up_is_named(world: World, arguments: list[str]) -> None:
    done = world.cli("lab", arguments[0], "--name", "hjnolab", *arguments[1:])
    assert done.returncode == 1 and "lab hjnolab is not up" in done.stderr and done.stderr.count("\n") == 1


def examined(world: World, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`ztun doctor -o json` of node-a, on that node."""
    with netns.entered(world.node("node-a").netns):
        done = world.cli("doctor", *arguments, "-o", "json", node="node-a")
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


def failed(answer: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {row["check"]: row for row in answer["checks"] if row["verdict"] in ("warning", "failed")}


def test_a_doctor_finds_nothing_wrong_with_a_node_that_runs(world: World) -> None:
    status, answer = examined(world)
    assert (status, failed(answer)) == (0, {})
    seen = {row["check"]: row for row in answer["checks"]}
    for name in (
        "agent",
        "workers",
        "certificates",
        "control plane",
        "control plane's certificate",
        "credentials",
    ):
        assert seen[name]["verdict"] == "ok", seen[name]
    assert "guard" not in seen["foreign programs"]["words"], "which are ours"
    assert "READY" in seen["agent"]["words"] and "the agent has them" in seen["ports"]["words"]


def test_a_doctor_finds_a_worker_that_is_stopped(world: World) -> None:
    pid = world.workers("node-a")[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        status, answer = examined(world, "--only", "workers")
        (row,) = answer["checks"]
        assert (status, row["verdict"]) == (1, "failed") and str(pid) in row["words"]
        subprocess.run(["bash", "-ec", row["command"]], check=True)
        assert examined(world, "--only", "workers")[0] == 0
    finally:
        os.kill(pid, signal.SIGCONT)


def told(world: World, *arguments: str) -> tuple[int, dict[str, str]]:
    status, answer = examined(world, *arguments)
    return status, {step["where"]: step["words"] for step in answer["steps"]}


def test_a_doctor_says_what_becomes_of_a_connection(world: World) -> None:
    flow = ("--flow", f"{world.address('client-a')}:4000-{VIP4}:80")
    status, steps = told(world, *flow)
    assert status == 0 and "SYN_TO_PROXY" in steps["from_pod"] and "demo/client-a" in steps["source"]
    assert "HBONE" in steps["route"] and "demo/server.demo.svc.cluster.local" in steps["route"]
    assert "no policy is about it" in steps["policy"] and steps["now"] == "no such connection is open"
    with world.manifest("only-spare", policy_manifest("only-spare", principal("spare"))):
        until(lambda: told(world, *flow)[0] == 1, "the policy is in force")
        _, answer = examined(world, *flow)
        words = [step["words"] for step in answer["steps"] if step["where"] == "policy"]
    assert "spiffe://cluster.local/ns/demo/sa/client may not reach" in words[0]
    assert "demo/only-spare does not match" in words[1]
    until(lambda: world.is_served("client-a", world.address("server-b")), "the policy is gone")
    with world.talk("client-a", world.address("server-b")) as live:
        live.say()
        name = live.sock.getsockname()
        _, steps = told(world, "--flow", f"{name[0]}:{name[1]}-{world.address('server-b')}:8080")
    assert steps["now"].startswith("open outbound, ")


def test_a_doctor_says_how_a_pod_is_served(world: World) -> None:
    status, steps = told(world, "--pod", "demo/server-a")
    assert status == 0 and steps["agent"] == "served as spiffe://cluster.local/ns/demo/sa/server"
    assert "(hbone)" in steps[f"to_pod to {world.address('server-a')}:15008"]
    assert f"at {world.address('server-a')} on 8080" in steps["application"]
    assert "(plaintext)" in steps[f"to_pod to {world.address('server-a')}:8080"]
    assert "where none is everybody may connect" in steps["policy"] and "DNS is" in steps["names"]
    with netns.entered(world.node("node-a").netns):
        done = world.cli("doctor", "--pod", "demo/nobody", node="node-a")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "demo/server-a" in done.stderr
