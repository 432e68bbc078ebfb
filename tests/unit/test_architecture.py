"""The rules of docs/ARCHITECTURE.md, checked: who may import whom, file sizes, calls that have one home."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.import_rules import ALLOWED

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
    "agent.run",
    "agent.standing_by",
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
            (
                "agent.identity.credentials",
                "agent.identity.engine",
                "agent.identity.handshake",
                "agent.identity.key_exchange",
            ),
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
            (
                "agent.config",
                "agent.cli.entry",
                "agent.identity.ticketless",
                "redirect.bcc_backend",
                "agent.cni.ztun_cni",
            ),
            "one reader; gRPC, OpenSSL and bcc are told by it, a CNI plugin is told everything by it",
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


def test_no_class_has_abcs_metaclass() -> None:
    """Classes that mypyc made share the cache of ABCMeta's isinstance: a no to one of them is a no to all of its kin.

    `@abstractmethod` alone is what mypy goes by.
    """
    assert not [str(path) for path in SOURCES if re.search(r"\bABC(Meta)?\b", path.read_text())]
