"""`ztun connections|tunnels|certificates|policies|services`: what the running agent holds, as tables or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli.which import Which, which_agent


def listing(name: str, columns: Sequence[str], empty: str, text: str) -> click.Command:
    """A command that shows one page of the agent; JSON has every field of it."""

    @click.command(name, help=text)
    @which_agent
    @out.output_option
    def command(which: Which, output: str) -> None:
        answer: dict[str, list[dict[str, Any]]] = client.ask(which.socket, "GET", f"/{name}")
        out.show(name, answer[name], output, columns, empty=empty)

    return command


connections = listing(
    "connections",
    ["pod", "direction", "src", "original_dst", "actual_dst", "protocol", "client"],
    "no connection is open",
    "List the open connections of enrolled pods.",
)
tunnels = listing(
    "tunnels",
    ["direction", "identity", "peer", "suite", "group", "tunnels", "unread_bytes", "waiting"],
    "no HBONE connection is open",
    "List HBONE connections: identities, TLS, unread bytes.",
)
certificates = listing(
    "certificates",
    ["identity", "state", "left_s", "failures", "error"],
    "no identity is in use",
    "List the identities in use, and their certificates' state.",
)
policies = listing(
    "policies",
    ["policy", "scope", "action", "rules", "dry_run", "pods"],
    "no policy is known",
    "List policies, and the pods of this node they judge.",
)
services = listing(
    "services",
    ["service", "hostname", "vips", "ports", "waypoint", "endpoints"],
    "no Service is known",
    "List Services with their addresses and usable endpoints.",
)
