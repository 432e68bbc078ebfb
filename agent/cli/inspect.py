"""`ztun connections|tunnels|certificates|policies|limits|services`: what the running agent holds, as tables or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli.which import Which, which_agent


def listing(
    name: str,
    columns: Sequence[str],
    empty: str,
    text: str,
    more: Sequence[str] = (),
    identities: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> click.Command:
    """A command that shows one page of the agent; JSON has every field of it, `-o wide` the columns of `more` too
    and no line that is folded.

    `identities`: columns of SPIFFE IDs, which only wide and JSON have with a trust domain that is the same in all rows.
    `numbers`: of lists, of which only those have more than how many there are.
    """

    @click.command(name, help=text)
    @which_agent
    @out.wide_option
    def command(which: Which, output: str) -> None:
        answer: dict[str, list[dict[str, Any]]] = asked(which, f"/{name}")
        rows = answer[name] if output == "json" else [_as_people_read(row, columns) for row in answer[name]]
        if output == "table":
            rows = without_trust_domain(rows, identities)
            rows = [{**row, **{name: len(row[name]) for name in numbers}} for row in rows]
        shown = [*columns, *more] if output == "wide" else columns
        out.show(name, rows, output, shown, empty=empty)

    return command


def without_trust_domain(rows: list[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """`ns/NAMESPACE/sa/NAME` for the identities in these columns, where all of them are of one trust domain."""
    named = [row[column] for row in rows for column in columns if row[column]]
    domains = {name.split("/ns/", 1)[0] for name in named}
    if len(domains) != 1 or not all(name.startswith("spiffe://") and "/ns/" in name for name in named):
        return rows
    (domain,) = domains
    return [{**row, **{each: row[each].removeprefix(f"{domain}/") for each in columns}} for row in rows]


def asked(which: Which, page: str) -> Any:
    """Its answer. Raises AgentAbsent, which says when its workers serve without it, and AgentRefused."""
    try:
        return client.ask(which.socket, "GET", page)
    except client.AgentGone as error:
        # Only here: it loads the kernel side, which an agent that answers has for us.
        from agent.cli.bypass import kernel_words

        raise client.AgentAbsent(kernel_words(which).served or str(error)) from error


def _as_people_read(row: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """With a column without its unit where the row has seconds of that name."""
    spans = {name: row.get(f"{name}_s") for name in columns if name not in row}
    return {**row, **{name: out.duration(each) for name, each in spans.items() if each is not None}}


connections = listing(
    "connections",
    ["pod", "direction", "src", "original_dst", "client"],
    "no connection is open",
    "List the open connections of enrolled pods.",
    more=["actual_dst", "protocol"],
    identities=["client"],
)
tunnels = listing(
    "tunnels",
    ["direction", "identity", "peer", "tunnels", "unread_bytes", "waiting"],
    "no HBONE connection is open",
    "List HBONE connections: identities, TLS, unread bytes.",
    more=["peer_address", "suite", "group"],
    identities=["identity", "peer"],
)
certificates = listing(
    "certificates",
    ["identity", "state", "left", "failures", "error"],
    "no identity is in use",
    "List the identities in use, and their certificates' state.",
)
policies = listing(
    "policies",
    ["policy", "from", "scope", "action", "rules", "dry_run", "pods"],
    "no policy is known",
    "List policies, their origin, and whom they judge."
    "\n\nistio_converted_static_strict, of the root namespace, stands for every PeerAuthentication with mode STRICT: it"
    " denies peers without an identity, and judges the pods that list it.",
)


@click.command()
@which_agent
@out.wide_option
def limits(which: Which, output: str) -> None:
    """List what pods of this node let each client have.

    Of all limits that are about a client the lowest of each kind holds; -o wide has the clients that are connected too:
    how many connections they have open, and what holds for each. ztun_limited_total counts who was refused or had to
    wait.
    """
    answer: dict[str, list[dict[str, Any]]] = asked(which, "/limits")
    if output == "json":
        out.show_json(answer)
        return
    columns = ["pod", "limit", "clients", "connections", "new_per_s", "bytes_per_s"]
    out.show_table(answer["limits"], columns + ["from"] * (output == "wide"), empty="no pod has a limit")
    if output == "wide" and answer["limits"]:
        clients = [
            {**row, "client": row["client"] or "without an identity"} for row in answer.get("clients", ())
        ]
        columns = ["pod", "client", "open", "connections", "new_per_s", "bytes_per_s", "by"]
        click.echo()
        out.show_table(clients, columns, empty="no client of them is connected")


services = listing(
    "services",
    ["service", "vips", "ports", "waypoint", "endpoints"],
    "no Service is known",
    "List Services with their addresses and usable endpoints.",
    more=["hostname"],
    numbers=["endpoints"],
)
