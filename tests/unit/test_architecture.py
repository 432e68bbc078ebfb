"""The rules of docs/ARCHITECTURE.md, checked: who may import whom, file sizes, calls that have one home."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = {"agent", "bpf", "redirect", "tests", "scripts", "deploy", "docs", "findings", ".ci"} | {
    *("setup.cfg", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Vagrantfile"),
    ".gitignore",
}
"""What people look for has its place; a new kind of file finds one in a directory."""
SOURCES = sorted(
    p for top in ("agent", "redirect") for p in (ROOT / top).rglob("*.py") if "pb" not in p.parts
)
LINES_LIMIT = 400

# package -> what it may import of ours (itself is always allowed). `*` = leaf modules named in full.
ALLOWED: dict[str, set[str]] = {
    "agent.model": set(),
    "agent.policy": {"agent.model"},
    "agent.state": {"agent.model", "agent.policy"},
    "agent.wire": {"agent.model", "agent.pb"},
    "agent.identity": {"agent.model", "agent.wire.tls_alerts", "agent.wire.tls_records"},
    "agent.net": {"agent.model", "agent.wire", "agent.identity"},
    "agent.telemetry": {"agent.model", "agent.privileges"},
    "agent.rpc": {"agent.model", "agent.wire", "agent.identity", "agent.pb"},
    "agent.pb": set(),
    "agent.controlplane": {"agent.model", "agent.admin.server"},
    # The client of the Kubernetes API, and nothing of what the agent does with it.
    "agent.controlplane.kubeapi": {
        "agent.model",
        "agent.kubernetes.access",
        "agent.kubernetes.connection",
        "agent.kubernetes.reflector",
        "agent.kubernetes.watch_threads",
        "agent.kubernetes.watcher",
        "agent.controlplane.state_dir",
        "agent.controlplane.serve.access",
        "agent.controlplane.serve.ca",
    },
    "agent.controlplane.state_dir": {"agent.whole_file"},
    "agent.controlplane.read": {"agent.model", "agent.controlplane.state_dir"},
    "agent.controlplane.translate": {"agent.model", "agent.pb", "agent.controlplane.read"},
    # Ends in the model, and so in the encoding of it that workers are told by.
    "agent.controlplane.ztunnel_file": {
        "agent.model",
        "agent.pb",
        "agent.wire.xds_encode",
        "agent.controlplane.read",
        "agent.controlplane.serve",
        "agent.controlplane.state_dir",
        "agent.controlplane.translate.resources",
    },
    "agent.controlplane.serve": {
        "agent.model",
        "agent.pb",
        "agent.admin.server",
        "agent.telemetry",
        "agent.controlplane.state_dir",
        "agent.controlplane.read",
        "agent.controlplane.translate",
        "agent.identity.anchors",
    },
    "agent.proxy": {
        "agent.model",
        "agent.policy",
        "agent.state",
        "agent.wire",
        "agent.identity",
        "agent.net",
        "agent.telemetry",
        "agent.channel",
        "agent.channel_socket",
        "agent.config",
        "agent.fd_limit",
        "agent.log_force",
        "agent.log_levels",
        # What is known of names and messages; nothing that waits for anybody.
        "agent.dns.cache",
        "agent.dns.framing",
        "agent.dns.mesh_names",
        "agent.dns.messages",
        "agent.dns.question",
        "agent.dns.name_servers",
        "agent.dns.records",
    },
    "agent.enroll": {
        "agent.model",
        "agent.state",
        "agent.policy.prefilter",
        "agent.identity.signer",
        "agent.whole_file",
        "redirect",
    },
    # Says what is wanted, and what is said back: knows wishes, and nothing of how they are fulfilled.
    "agent.kubernetes": {
        "agent.model",
        "agent.config",
        "agent.enroll.progress",
        "agent.enroll.source",
        "agent.enroll.treatment",
        "agent.enroll.wish",
    },
    "agent.zds": {
        "agent.model",
        "agent.wire.zds",
        "agent.enroll.handed",
        "agent.enroll.source",
        "agent.enroll.wish",
        "redirect.errors",
        "redirect.netns",
    },
    # What somebody else's environment says, in options of ours.
    "agent.ztunnel": {"agent.config", "agent.log_levels"},
    # Looks at a node from outside of the agent, which it asks as any command does.
    "agent.doctor": {
        "agent.model",
        "agent.config",
        "agent.fd_limit",
        "agent.admin.client",
        "agent.cni.conflist",
        "redirect",
    },
    # Runs on the node without anything else of ours.
    "agent.cni": {"agent.config", "agent.whole_file"},
    "agent.cni.ztun_cni": set(),
    "agent.admin": {"agent.model", "agent.state", "agent.policy.explain", "agent.telemetry"},
    "agent.lab": {"agent", "redirect"},
    "agent.cli": {
        "agent.model",
        # What the programs tell of packets comes in a ring as well.
        "agent.net.syn_ring",
        "agent.policy.explain",
        "redirect",
        "agent.lab",
        "agent.controlplane",
        "agent.config",
        "agent.given_options",
        "agent.admin",
        "agent.start",
        "agent.cni",
        "agent.doctor",
        "agent.log",
        "agent.option_kinds",
        "agent.kubernetes.access",
        "agent.ztunnel",
        "agent.enroll.wish_file",
        "agent.run_lock",
        "agent.supervisor.orphans",
        "agent.whole_file",
    },
    "agent.config": {
        "agent.model",
        "agent.option_combinations",
        "agent.option_kinds",
        "agent.option_rows",
    },
    "agent.option_rows": {"agent.option_kinds"},
    "agent.option_combinations": {"agent.config", "agent.option_kinds"},
    "agent.option_kinds": {"agent.model", "agent.log_levels"},
    "agent.channel": {"agent.model"},
    "agent.channel_socket": {"agent.channel", "agent.fd_limit"},
    "agent.build": set(),
    # What is live goes to another worker: units of the data plane, and nothing else of the process that has it.
    "agent.handover": {
        "agent.model",
        "agent.channel",
        "agent.net.loop",
        "agent.proxy.dataplane",
        "agent.proxy.moving",
        "agent.proxy.moving_links",
        "agent.proxy.moving_plain",
        "agent.proxy.moving_waits",
        "agent.telemetry",
    },
    "agent.supervisor": {
        "agent.build",
        "agent.model",
        "agent.channel",
        "agent.channel_socket",
        "redirect.spawn",
        "redirect.nursery",
    },
    "agent.proof": {"agent.model"},
    # Asks the parts of the control process, and puts what they answer into findings and figures.
    "agent.watch": {
        "agent.model",
        "agent.state.gaps",
        "agent.identity.keeper",
        "agent.identity.own_check",
        "agent.identity.revocation_file",
        "agent.start_error",
        "agent.wire.xds_delta",
        "agent.enroll",
        "agent.telemetry",
        "agent.proof",
        "agent.mesh_state",
        "agent.net.sockets",
        "agent.supervisor.crew",
        "agent.run_lock",
        "redirect",
    },
    # Looks names up, and tells workers of them.
    "agent.dns": {"agent.model", "agent.channel", "agent.state", "agent.telemetry"},
    "agent.start_error": set(),
    "agent.briefing": {
        "agent.model",
        "agent.dns.host_names",
        "agent.channel",
        "agent.mesh_state",
        "agent.enroll.enrolled_pod",
        "agent.identity.bundle",
        "agent.identity.keeper",
        "agent.identity.revocation_file",
    },
    "agent.mesh_state": {"agent.model", "agent.state", "agent.channel", "agent.wire"},
    "agent.fd_limit": set(),
    "agent.log": {"agent.log_force", "agent.log_levels", "agent.telemetry.line_writer"},
    "agent.log_force": {"agent.log_levels"},
    "agent.log_levels": set(),
    # What is held, in ztunnel's shape: values in, values out.
    "agent.dump": {"agent.model", "agent.config", "agent.identity.keeper", "agent.state.snapshot"},
    "agent.privileges": set(),
    "agent.run_lock": set(),
    "agent.whole_file": set(),
    # A page asks a part of the control process and puts the answer into HTTP: parts, and no data path.
    "agent.pages": {
        "agent.model",
        "agent.admin",
        "agent.config",
        "agent.dump",
        "agent.log_force",
        "agent.log_levels",
        "agent.state.resolve",
        "agent.state.store",
        "agent.state.snapshot",
        "agent.policy.explain",
        "agent.enroll",
        "agent.kubernetes.gate",
        "agent.kubernetes.sandbox",
        "agent.zds.source",
        "agent.identity.keeper",
        "agent.rpc",
        "agent.supervisor.crew",
        "agent.telemetry",
        "agent.watch",
        "agent.proof",
        "redirect.errors",
        "redirect.layout",
    },
    "agent.pod_sources": {
        "agent.config",
        "agent.cni.keeper",
        "agent.enroll",
        "agent.kubernetes",
        "agent.zds.source",
    },
    "agent.plane_access": {"agent.config", "agent.rpc.endpoint", "agent.wire.xds_delta"},
    "agent.listening": {
        "agent.model",
        "agent.config",
        "agent.enroll.kernel",
        "agent.net.sockets",
        "agent.supervisor",
    },
    "agent.stopping": {
        "agent.channel",
        "agent.config",
        "agent.enroll.kernel",
        "agent.model.listener",
        "agent.run_lock",
        "agent.succession",
        "agent.supervisor",
        "redirect.errors",
        "redirect.outlive",
    },
    "agent.succession": {
        "agent.config",
        "agent.run_lock",
        "agent.supervisor.crew",
        "agent.supervisor.orphans",
        "redirect.outlive",
    },
    "agent.app": {"agent", "redirect"},
    "agent.start": {
        "agent.app",
        "agent.config",
        "agent.fd_limit",
        "agent.given_options",
        "agent.start_error",
        "redirect",
    },
    "agent.given_options": {"agent.config"},
    "agent.__main__": {"agent.cli"},
    # In force, and made, before anything else of ours is loaded.
    "agent.dataclass_code": set(),
    "agent.dataclass_keeping": {"agent.dataclass_code"},
    "agent.app_routes": {"agent.admin", "agent.app", "agent.pages"},
    "agent.app_pages": {
        "agent.admin.server",
        "agent.app",
        "agent.app_proofs",
        "agent.channel",
        "agent.log_levels",
        "agent.model",
        "agent.pages",
        "agent.watch.audit",
        "redirect.sock_diag",
    },
    "agent.app_proofs": {
        "agent.app",
        "agent.model",
        "agent.proof",
        "agent.watch",
        "redirect.findings",
        "redirect.sides",
    },
    "agent.worker": {"agent", "redirect"},
    "redirect": set(),
}
ASYNCIO_HOMES = (
    "agent.net.outer_loop",
    "agent.rpc",
    "agent.dns",
    "agent.controlplane.app",
    "agent.controlplane.following",
    "agent.controlplane.kubeapi",
    "agent.controlplane.serve",
    "agent.identity.keeper",
    "agent.enroll",
    "agent.kubernetes.gate",
    "agent.kubernetes.reporter",
    "agent.kubernetes.source",
    "agent.kubernetes.watch_threads",
    "agent.admin",
    "agent.proof",
    "agent.mesh_state",
    "agent.app",
    "agent.app_pages",
    "agent.app_routes",
    "agent.stopping",
    "agent.worker",
    "agent.lab",
    "agent.cli",
    "agent.cni.keeper",
    "agent.supervisor",
    "agent.pages",
    "agent.watch",
    "agent.zds",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    return max((p for p in ALLOWED if module == p or module.startswith(p + ".")), key=len, default="agent")


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imports_of(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple(_imports_of(path))


def _imports_of(path: Path) -> Iterator[tuple[int, str]]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                is_module = (ROOT / Path(*dotted.split("."))).with_suffix(".py").exists()
                yield node.lineno, dotted if is_module else node.module


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_rules(path: Path) -> None:
    module = module_name(path)
    package = package_of(module)
    for line, name in imports_of(path):
        if name == "agent" or not (within(name, "agent") or within(name, "redirect")):
            continue
        allowed = within(name, package) or any(within(name, a) for a in ALLOWED.get(package, set()))
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {package} may not import {name}"


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("bcc", ("redirect.bcc_backend",)),
        (
            "OpenSSL",
            ("agent.identity.credentials", "agent.identity.handshake", "agent.identity.key_exchange"),
        ),
        ("asyncio", ASYNCIO_HOMES),
        ("pyroute2", ("agent.lab",)),
        ("dns", ("agent.dns.messages", "agent.dns.resolver")),
    ],
)
def test_library_has_its_home(library: str, homes: tuple[str, ...]) -> None:
    for path in SOURCES:
        module = module_name(path)
        if any(within(module, home) for home in homes):
            continue
        for line, name in imports_of(path):
            assert not within(name, library), f"{path.relative_to(ROOT)}:{line}: {library} belongs to {homes}"


def test_nothing_else_lies_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    assert {name.split("/")[0] for name in listed.stdout.split("\0") if name} <= TOP


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= LINES_LIMIT, (
        f"{path.relative_to(ROOT)} has {lines} lines: which second job has it taken on?"
    )
    if lines:
        module = nodes_of(path)[0]
        assert isinstance(module, ast.Module) and ast.get_docstring(module), (
            f"{path.relative_to(ROOT)} has no module docstring"
        )
    assert path.stem not in {"utils", "helpers", "common", "manager"}


@cache
def calls_in(path: Path) -> tuple[tuple[int, str], ...]:
    """Names that are called, and dotted ones that are only named."""
    targets = [
        node.func if isinstance(node, ast.Call) else node
        for node in nodes_of(path)
        if isinstance(node, ast.Call | ast.Attribute)
    ]
    return tuple((target.lineno, name) for target in targets if (name := dotted_name(target)))


def dotted_name(node: ast.expr) -> str:
    """Empty where it is something else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize(
    ("call", "homes", "reason"),
    [
        ("print", ("agent.cli", "agent.lab"), "output belongs to the command line"),
        (
            "os.environ",
            ("agent.config", "agent.cli.entry", "redirect.bcc_backend", "agent.cni.ztun_cni"),
            "one reader; gRPC and bcc are told by it, a CNI plugin is told everything by it",
        ),
        ("os.getenv", ("agent.config",), "one reader of the environment"),
        (
            "asyncio.create_task",
            (),
            "a task without an owner is lost, and its exception with it: use a TaskGroup",
        ),
        ("asyncio.ensure_future", (), "the same"),
    ],
)
def test_call_has_its_home(call: str, homes: tuple[str, ...], reason: str) -> None:
    for path in SOURCES:
        module = module_name(path)
        if any(within(module, home) for home in homes):
            continue
        for line, name in calls_in(path):
            assert name != call, f"{path.relative_to(ROOT)}:{line}: {call}: {reason}"
