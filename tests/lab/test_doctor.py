"""Each check of `ztun doctor` on a node where exactly that is broken: it alone says so, and what it prints mends it."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509

from agent import privileges
from agent.doctor import kernel_checks, plane_checks
from agent.doctor.check import Check, Verdict
from agent.doctor.examination import CHECKS, NAMES, examine
from agent.doctor.flow import Flow, explain_flow
from agent.doctor.site import Site
from agent.lab.agents import ZTUN
from redirect import features, lifetime, netns
from redirect.errors import LayoutMismatch
from redirect.pins import BPFFS
from redirect.side import sides_of
from tests.support.certs import Issued, TestCA
from tests.support.patient import ILL, Patient, site_at

pytestmark = pytest.mark.kernel
NAME = "plane.example"
TEN_DAYS = timedelta(days=10)
SYS_RESOURCE = 24


@dataclass
class Plane:
    """What stands for a control plane in the patient's namespace: TLS on one port, the time by HTTP on another."""

    address: str
    roots: Path
    stranger: Path
    token: Path
    listener: socket.socket
    ahead_s: float = 0.0


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """With nothing of ztun, and well. Its settings are those of `plane`."""
    name, directory = f"hd{os.getpid()}", tmp_path_factory.mktemp("doctor")
    namespace = netns.create(name)
    try:
        made = Patient(namespace, site_at(directory, name))
        try:
            made.type("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1")
            yield made
        finally:
            made.close()
    finally:
        netns.remove(name)


@pytest.fixture(scope="module")
def plane(patient: Patient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    files = tmp_path_factory.mktemp("plane")
    ca = TestCA()
    issued = ca.issue(None, not_after=datetime.now(UTC) + TEN_DAYS)
    shown = Issued(issued.key, [ca.with_names(issued, x509.SubjectAlternativeName([x509.DNSName(NAME)]))])
    for name, content in (
        ("root.pem", ca.root_pem),
        ("stranger.pem", TestCA().root_pem),
        ("chain.pem", shown.chain_pem + shown.key_pem),
        ("token", b"made-up\n"),
    ):
        (files / name).write_bytes(content)
    with ExitStack() as stack:
        made: list[Plane] = []
        listener = stack.enter_context(patient.call(lambda: socket.create_server(("127.0.0.1", 0))))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        made.append(Plane(address, files / "root.pem", files / "stranger.pem", files / "token", listener))

        class Time(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + made[0].ahead_s, usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        clock = stack.enter_context(
            patient.call(lambda: http.server.ThreadingHTTPServer(("127.0.0.1", 15014), Time))
        )
        stack.callback(clock.shutdown)
        threading.Thread(target=clock.serve_forever, daemon=True).start()
        threading.Thread(target=greet, args=(listener, files / "chain.pem"), daemon=True).start()
        patient.with_settings(
            xds_address=address,
            root_cert=str(files / "root.pem"),
            server_name=NAME,
            token_file=str(files / "token"),
        )
        yield made[0]


def greet(listener: socket.socket, chain: Path) -> None:
    """Handshakes, until the listener is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock:
            try:
                context.wrap_socket(sock, server_side=True).close()
            except OSError:
                continue  # whoever came did not want TLS, or not this certificate


@contextmanager
def ill_with(patient: Patient, *names: str) -> Iterator[dict[str, str]]:
    """In the block it is well again, by what the block does with the remedies, which are given by name."""
    found = patient.ill()
    assert sorted(found) == sorted(names), {name: check.words for name, check in found.items()}
    assert all(check.remedy for check in found.values())
    yield {name: check.command for name, check in found.items()}
    assert patient.ill() == {}


@pytest.fixture(autouse=True)
def well(patient: Patient, plane: Plane) -> Iterator[None]:
    yield
    assert patient.ill() == {}, "a test left it ill"


def test_a_node_that_is_well(patient: Patient) -> None:
    checks = patient.checks()
    assert tuple(checks) == NAMES and len(NAMES) >= 18
    unknown = {name for name, check in checks.items() if check.verdict is Verdict.CANNOT_TELL}
    assert unknown <= {"workers", "certificates", "program speed", "kernel config"}


def outside(site: Site, *names: str) -> list[Check]:
    """What a doctor says who is not in the node's network namespace."""
    return examine(site, names)


def test_the_node_of_a_lab_is_looked_at_from_outside(patient: Patient, plane: Plane) -> None:
    there = netns.path_of(patient.site.instance)
    site = replace(patient.site, netns=there)
    checks = outside(site, "forwarding", "control plane", "clock")
    assert [check.verdict for check in checks] == [Verdict.OK] * 3, checks
    assert outside(patient.site, "control plane")[0].verdict is Verdict.FAILED, "it is only there"
    patient.type("sysctl -qw net.ipv4.ip_forward=0")
    (check,) = outside(site, "forwarding")
    assert check.command == f"nsenter --net={there} sysctl -w net.ipv4.ip_forward=1"
    subprocess.run(check.command, shell=True, check=True, capture_output=True)


def test_an_instance_of_another_network_namespace_is_asked_for_there(patient: Patient) -> None:
    side = sides_of(patient.site.instance)[0]
    path = netns.create(side.namespace)
    try:
        with netns.entered(netns.path_of(patient.site.instance)):
            link = ["ip", "link", "add", side.ifname, "type", "veth", "peer", "name", side.ifname, "netns"]
            subprocess.run([*link, path.name], check=True)
        (check,) = outside(patient.site, "forwarding")
        assert check.verdict is Verdict.CANNOT_TELL and "another network namespace" in check.words
        assert check.command.startswith("nsenter --net=/run/netns/NAME ztun doctor --instance ")
        assert patient.checks(["forwarding"])["forwarding"].verdict is Verdict.OK
    finally:
        netns.remove(side.namespace)
        patient.type(
            f"until ! ip link show {side.ifname} 2>&- >&-; do ip link del {side.ifname} 2>&- || :; done"
        )


def tmpfs(directory: str, **files: str) -> str:
    """Commands that put files over a directory of the kernel's."""
    writes = "; ".join(f"echo '{text}' > {directory}/{name}" for name, text in files.items())
    return f"mount -t tmpfs none {directory}; {writes}"


CONNTRACK, NET_CORE, SECURITY = "/proc/sys/net/netfilter", "/proc/sys/net/core", "/sys/kernel/security"
COUNTS = {"nf_conntrack_count": "1000", "nf_conntrack_max": "1024"}
UPLINK = "ip link add up0 type veth peer name up1; ip link set up1 up; ip link set up0 up; ip route add default dev up0"


@pytest.mark.parametrize(
    ("name", "broken", "undone"),
    [
        ("forwarding", "sysctl -qw net.ipv4.ip_forward=0", ""),
        ("bpffs", f"umount {BPFFS}; while mountpoint -q {BPFFS}; do umount {BPFFS}; done", ""),
        ("bpffs writable", f"mount -o remount,ro {BPFFS}", ""),
        ("connection tracking", tmpfs(CONNTRACK, **COUNTS), f"umount {CONNTRACK}"),
        ("program speed", tmpfs(NET_CORE, bpf_jit_enable="0"), f"umount {NET_CORE}"),
        ("uplink MTU", f"{UPLINK}; ip link set up0 mtu 1300", "ip link del up0"),
    ],
)
def test_what_is_printed_mends_it(patient: Patient, name: str, broken: str, undone: str) -> None:
    if name == "connection tracking" and not Path(CONNTRACK).is_dir():
        pytest.skip("this kernel tracks no connections")
    with ExitStack() as stack:
        if name == "uplink MTU":
            other = stack.enter_context(subprocess.Popen(["unshare", "-n", "sleep", "60"]))
            stack.callback(other.kill)
            stack.callback(lambda: patient.type("ip link del pod0"))
            patient.type(
                f"until ip link add pod0 type veth peer name eth0 netns {other.pid} && ip link set pod0 up; do :; done"
            )
        patient.type(broken)
        with ill_with(patient, name) as commands:
            patient.type(commands[name])
        patient.type(undone or "true")


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        ("nft", "nft add table inet t; nft add chain inet t c '{ type filter hook forward priority 0; }'; "
                "nft add rule inet t c tcp dport '{ 80, 15000-15010 }' counter drop"),
        ("nft", "nft add table inet t; nft add chain inet t f '{ type filter hook forward priority 0; policy drop; }'"),
        ("iptables", "iptables -A FORWARD -p tcp -m multiport --dports 80,15008 -j DROP"),
        ("ip6tables", "ip6tables -A FORWARD -p tcp -m tcp --dport 15008 -j REJECT"),
    ],
)  # fmt: skip
def test_a_rule_in_the_way_of_tunnels_is_taken_out(patient: Patient, command: str, rule: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    patient.type(rule)
    with ill_with(patient, "tunnel port") as commands:
        patient.type(commands["tunnel port"])


def test_rules_about_other_ports_are_nobodys_business(patient: Patient) -> None:
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    patient.type("nft add table inet t; nft add chain inet t c; nft add rule inet t c tcp dport 15009 drop")
    patient.type("nft add rule inet t c tcp dport 15008 accept; nft add rule inet t c tcp sport 15008 drop")
    assert patient.ill() == {}
    patient.type("nft delete table inet t")


def test_lockdown(patient: Patient) -> None:
    if not Path(SECURITY).is_dir():
        pytest.skip(f"there is no {SECURITY}")
    patient.type(tmpfs(SECURITY, lockdown="none integrity [confidentiality]"))
    with ill_with(patient, "lockdown"):
        patient.type(f"umount {SECURITY}")


@pytest.mark.parametrize(
    ("option", "verdict"), [("VETH", Verdict.FAILED), ("INET_DIAG_DESTROY", Verdict.WARNING)]
)
def test_a_kernel_that_was_built_without_something(
    patient: Patient, tmp_path: Path, option: str, verdict: Verdict
) -> None:
    if not Path("/proc/config.gz").exists():
        pytest.skip("this kernel has no /proc/config.gz (CONFIG_IKCONFIG_PROC)")
    patient.type(f"zcat /proc/config.gz | grep -v '^CONFIG_{option}=' | gzip > {tmp_path}/config.gz")
    patient.type(f"mount --bind {tmp_path}/config.gz /proc/config.gz")
    assert patient.checks()["kernel config"].verdict is verdict
    with ill_with(patient, "kernel config"):
        patient.type("umount /proc/config.gz")


def test_a_cni_whose_pods_have_no_veth(patient: Patient) -> None:
    def chain(kind: str) -> None:
        plugins = [{"type": kind}, {"type": "portmap"}]
        (patient.site.cni_dir / "10-net.conflist").write_text(json.dumps({"name": "net", "plugins": plugins}))

    chain("macvlan")
    with ill_with(patient, "CNI"):
        chain("bridge")
    assert "pods on a bridge" in patient.checks()["CNI"].words
    (patient.site.cni_dir / "10-net.conflist").unlink()


def test_a_port_that_somebody_else_has(patient: Patient) -> None:
    before = patient.site
    with patient.call(lambda: socket.create_server(("127.0.0.1", 15000))), ill_with(patient, "ports"):
        check = patient.checks()["ports"]
        assert (
            f"(pid {os.getpid()}) listens on 127.0.0.1:15000" in check.words
            and "--admin-address" in check.remedy
        )
        patient.with_settings(admin_address="off")
    patient.site = before


def test_a_control_plane_that_is_not_there(patient: Patient, plane: Plane) -> None:
    before = patient.site
    patient.with_settings(xds_address="127.0.0.1:9")
    with ill_with(patient, "control plane"):
        assert "Connection refused" in patient.checks()["control plane"].words
        patient.with_settings(xds_address=plane.address)
    patient.site = before


def test_a_control_plane_that_is_another(patient: Patient, plane: Plane) -> None:
    before = patient.site
    patient.with_settings(root_cert=str(plane.stranger))
    with ill_with(patient, "control plane's certificate"):
        patient.with_settings(root_cert=str(plane.roots))
    patient.with_settings(server_name="other.example")
    with ill_with(patient, "control plane's certificate"):
        assert "other.example" in patient.checks()["control plane's certificate"].words
        patient.with_settings(server_name=NAME)
    patient.site = before


def jwt(ends_s: float) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"exp": ends_s}).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize("token", [None, "", jwt(1.0)], ids=["none", "empty", "expired"])
def test_a_token_that_is_of_no_use(patient: Patient, plane: Plane, token: str | None) -> None:
    if token is None:
        plane.token.unlink()
    else:
        plane.token.write_text(token)
    with ill_with(patient, "credentials"):
        plane.token.write_text(jwt(time.time() + 3600))


def test_a_token_that_the_control_plane_does_not_take(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "control plane: connecting: control plane 10.0.0.1:15012: it refuses our token: check /x"
    with monkeypatch.context() as patched:
        patched.setattr(type(patient.site.agent), "page", lambda *_: {"reasons": [said]})
        check = plane_checks.credentials(patient.site)
    assert (check.verdict, check.words) == (Verdict.FAILED, said)


def test_roots_that_are_of_no_use(patient: Patient, plane: Plane) -> None:
    before = patient.site
    patient.with_settings(root_cert=str(plane.token))
    with ill_with(patient, "credentials"):
        patient.with_settings(root_cert=str(plane.roots))
    patient.site = before


@pytest.mark.parametrize(("ahead_s", "verdict"), [(3600.0, Verdict.FAILED), (-60.0, Verdict.WARNING)])
def test_a_clock_that_is_not_the_control_planes(
    patient: Patient, plane: Plane, ahead_s: float, verdict: Verdict
) -> None:
    plane.ahead_s = ahead_s
    with ill_with(patient, "clock"):
        assert patient.checks()["clock"].verdict is verdict
        plane.ahead_s = 0.0


def test_maps_of_another_version_are_not_taken_for_none(patient: Patient) -> None:
    """What captures pods there is not known, so nobody is told that they are in clear, or well."""
    root = patient.call(lambda: patient.site.pins.root)
    other = root / "0123456789ab"
    patient.type(f"mkdir -p {other}")
    with ill_with(patient, "generations"):
        checks = patient.checks()
        for name in ("listeners", "drops", "break glass", "inner MTU", "room in maps"):
            assert checks[name].verdict is Verdict.CANNOT_TELL and "0123456789ab" in checks[name].words
        with pytest.raises(LayoutMismatch, match="0123456789ab"):
            patient.call(lambda: explain_flow(patient.site, Flow.parse("10.0.0.1:1-10.0.0.2:2")))
        patient.type(f"rm -r {other}; rmdir {root}")


def test_mounts_that_end_with_the_agent(patient: Patient) -> None:
    """The bpffs of the patient is of its own mount namespace, so it is so as soon as nobody says otherwise."""
    before = patient.site
    patient.site = replace(patient.site, look=lifetime.look)
    with ill_with(patient, "mounts outlive the agent"):
        patient.site = before


@dataclass
class Asked:
    """A kernel of which something else is said than it says. What cannot be taken from this one is tried so."""

    monkeypatch: pytest.MonkeyPatch
    patient: Patient

    def without(self, name: str, module: object, what: str, put: Callable[..., object]) -> None:
        with self.monkeypatch.context() as changed:
            changed.setattr(module, what, put)
            with ill_with(self.patient, name):
                changed.undo()


def test_what_cannot_be_taken_from_this_kernel(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, there = Asked(monkeypatch, patient), features.probe()
    for lacks in ("has_sk_lookup", "has_sock_destroy"):
        less = replace(there, **{lacks: False})
        asked.without("kernel features", kernel_checks.features, "probe", lambda less=less: less)

    asked.without("locked memory", kernel_checks.map_memory, "ensure", lambda: False)
    monkeypatch.setattr(kernel_checks, "DIST_PACKAGES", "/nowhere")
    with monkeypatch.context() as changed:
        changed.setattr(kernel_checks.importlib.util, "find_spec", lambda _: None)
        with ill_with(patient, "compiler"):
            changed.undo()
            monkeypatch.undo()


def run(before: str, *, patient: Patient) -> dict[str, str]:
    """The check of descriptors as it is printed by a process of the patient's namespaces."""
    where = f"--instance {patient.site.instance} --run-dir {patient.site.run_dir} --only descriptors -o json"
    (row,) = json.loads(patient.type(f"{before} {' '.join(ZTUN)} doctor {where} || test $? = 1"))["checks"]
    answer: dict[str, str] = row
    return answer


@pytest.mark.parametrize(("capability", "verdict"), [(13, Verdict.FAILED), (19, Verdict.WARNING)])
def test_a_process_without_a_right(patient: Patient, capability: int, verdict: Verdict) -> None:
    """CAP_NET_RAW, CAP_SYS_PTRACE"""
    found: list[dict[str, Verdict]] = []

    def examined() -> None:
        others = (bit for bit in range(41) if bit != capability)
        privileges.keep_only(*(bit for bit in others if effective() >> bit & 1))
        found.append({check.name: check.verdict for check in examine(patient.site)})

    patient.call(lambda: netns.apart(examined))
    (verdicts,) = found
    assert {name: each for name, each in verdicts.items() if each in ILL} == {"privileges": verdict}


def test_a_process_that_may_open_few_files(patient: Patient) -> None:
    few = run("ulimit -n 512;", patient=patient)
    assert (few["verdict"], few["check"]) == ("failed", "descriptors")
    if effective() >> SYS_RESOURCE & 1:  # else nobody raises a limit but whoever starts the process
        mended = run(f"ulimit -n 512; {few['command']};", patient=patient)
        assert mended["verdict"] == "ok"


def effective() -> int:
    """The capabilities of this thread."""
    status = Path("/proc/thread-self/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def test_every_check_is_broken_by_a_test_of_these_files() -> None:
    files = (
        Path(__file__).with_name(f"test_{name}.py") for name in ("doctor", "doctor_captured", "mesh_cli")
    )
    text = "".join(path.read_text() for path in files)
    assert [each.subject.name for each in CHECKS if f'"{each.subject.name}"' not in text] == []
