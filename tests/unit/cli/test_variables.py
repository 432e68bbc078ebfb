"""Variables that look like options and are none: none is passed over in silence, and none of the kubelet's is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agent import config
from agent.cli.main import ztun
from agent.given_options import without_effect
from tests.support.commands import every_command

ROOT = Path(__file__).parents[3]
DEPLOYED = [path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".yaml", ".tpl", ".json")]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "bpf").glob("*.md")]
OF_OTHERS = {
    "against": "scripts/bench",
    "at-once": "scripts/bench",
    "bridge": "scripts/bench",
    "check": "scripts/bench",
    "compiled": "scripts/setup",
    "concurrency": "envoy",
    "config-settings": "pip",
    "connections": "scripts/bench",
    "create-namespace": "helm",
    "expedited": "scripts/bench",
    "flag-name": "any of them",
    "flips": "scripts/bench",
    "form": "scripts/test",
    "helm": "scripts/cluster-test",
    "honest": "scripts/bench",
    "istioctl": "scripts/istiod-build",
    "istiod": "scripts/cluster-test",
    "json": "scripts/bench",
    "keep": "scripts/quickstart",
    "kind": "scripts/bench",
    "length": "scripts/bench",
    "list": "scripts/chaos",
    "long": "scripts/test",
    "native": "py-spy",
    "net": "nsenter",
    "by-hand": "scripts/bench",
    "no-pin": "scripts/bench",
    "now": "systemctl",
    "pairs": "scripts/bench",
    "peer": "scripts/bench",
    "patch-file": "kubectl",
    "plot": "scripts/bench",
    "post-renderer": "helm",
    "quick": "scripts/bench",
    "rate": "scripts/bench",
    "requests": "scripts/bench",
    "retry-connrefused": "curl",
    "server-side": "kubectl",
    "set": "helm",
    "socks5-hostname": "curl",
    "subresource": "kubectl",
    "take-ownership": "helm",
}
"""Options that the pages name and that are not of `ztun`."""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ZTUN_HONEST_CONNEKT", "is ZTUN_HONEST_CONNECT meant?"),
        ("ZTUN_ROOTCERT", "is ZTUN_ROOT_CERT meant?"),
        ("ZTUN_QQQQ", "`ztun agent --help` lists those that there are"),
    ],
)
def test_each_is_named_with_the_nearest(name: str, says: str) -> None:
    assert without_effect(["HOME", name, "ZTUN_NODE"]) == [
        f"variable {name} is no option of the agent and has no effect: {says}"
    ]


def test_what_the_kubelet_says_of_services_is_not_meant() -> None:
    of_service = [
        f"ZTUN_CONTROL_PLANE_{end}"
        for end in (
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_GRPC_XDS",
            "PORT",
            "PORT_15012_TCP",
            "PORT_15012_TCP_PROTO",
            "PORT_15012_TCP_PORT",
            "PORT_15012_TCP_ADDR",
        )
    ]
    assert without_effect([*of_service, *(f"ZTUN_{name.upper()}" for name in config.options())]) == []


def test_what_is_deployed_sets_options_only() -> None:
    found = {
        name for path in DEPLOYED for name in re.findall(r"\bZTUN_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())
    }
    assert found and without_effect(found) == []


def options_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (
            name[2:] for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")
        )


def test_pages_name_no_option_that_is_none() -> None:
    known = {"help"} | {option for command in every_command(ztun) for option in options_of(command)}
    named = {
        (path.name, word)
        for path in PAGES
        for word in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9])", path.read_text())
    }
    assert {(page, word) for page, word in named if word not in known and word not in OF_OTHERS} == set()
    assert not known & OF_OTHERS.keys() and OF_OTHERS.keys() <= {word for _, word in named}
