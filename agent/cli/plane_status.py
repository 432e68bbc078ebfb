"""`ztun control-plane status`: is it alive, does it serve, and what of the manifests could it not use?

Reads the state directory, so that it answers beside a dead control plane, too; whether one lives is asked of the lock
that it holds there, and of the port that it serves on.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from agent.cli import output as out
from agent.cli.plane_answers import PATIENCE_S, is_silent
from agent.controlplane.serve.status_value import FILE, Status
from agent.controlplane.state_dir import LOCK, StateDirectory, StateError
from agent.model.counted import counted

EXIT_CODES = {"READY": 0, "DEGRADED": 3, "DEAD": 4}


def answer(state_dir: Path) -> dict[str, Any]:
    """The newest status with the judgement of it: `state`, `line` and `reasons`. Raises StateError."""
    never = f"no control plane has ever served from {state_dir}; is it another --state-dir?"
    if not state_dir.is_dir():
        return dead(never, {})
    directory = StateDirectory(state_dir)
    status: dict[str, Any] = directory.read_json(FILE, _decode, {})
    if not directory.is_held(LOCK):
        left = f"no control plane runs on {state_dir}; the rest is what the last one left"
        return dead(left if status else never, status)
    address = status.get("address", "")
    if address and is_silent(address, PATIENCE_S):
        return dead(
            f"the control plane of {state_dir} has not answered on {address} for {PATIENCE_S:g} s: its process is "
            "stopped or hangs; end it (SIGKILL) and start it anew; the rest is what it wrote last",
            status,
        )
    reasons = list(_reasons(status))
    state = "DEGRADED" if reasons else "READY"
    return {"state": state, "line": f"{state} {_summary(status)}", "reasons": reasons, **status}


def dead(reason: str, status: dict[str, Any]) -> dict[str, Any]:
    """In the shape of the answer of one that lives."""
    return {"state": "DEAD", "line": f"DEAD {reason}", "reasons": [reason], **asdict(Status()), **status}


def show(state_dir: Path, output: str) -> None:
    """Print the status and end with its exit code."""
    try:
        said = answer(state_dir)
    except StateError as error:
        raise out.CliError(str(error)) from error
    if output == "json":
        out.show_json(said)
    else:
        click.echo(said["line"])
        for reason in said["reasons"] if said["state"] != "DEAD" else ():
            # A table is for the eye; the lines are for `grep` as well.
            lines = (
                out.folded(f"  {reason}", out.columns_here(), "    ")
                if output == "table"
                else [f"  {reason}"]
            )
            click.echo("\n".join(lines))
        if output == "line" and said["state"] != "DEAD" and (notes := _notes(said)):
            command = f"ztun control-plane status --state-dir {shlex.quote(str(state_dir))} -o table"
            click.echo(f"  {counted(len(notes), 'warning')}, shown by `{command}`")
    if output == "table":
        _tables(said)
    sys.exit(EXIT_CODES[said["state"]])


def _reasons(status: dict[str, Any]) -> Iterator[str]:
    if not status:
        yield "it has written down no status: it has just begun, or cannot write there (is the disk full?); see its log"
    elif not status.get("is_serving"):
        yield "nothing is served yet: what is refused below must be mended first"
    elif not status.get("addresses") and not status.get("policies"):
        yield f"nothing is served: there is no Pod, Service or policy in {status.get('manifests')}"
    if unheard := status.get("unheard"):
        yield (
            f"nodes {', '.join(unheard)}: no agent has said which pods are captured there since the state of before "
            "was lost; soon after the start of the control plane peers are told that they take plaintext. Start them"
        )
    for row in status.get("errors", ()):
        yield f"refused: {_text(row)}"
    for row in status.get("no_effect", ()):
        yield f"{row.get('outcome') or 'no effect'}: {_text(row)}"
    for nack in status.get("nacks", ()):
        yield f"node {nack['node']} could not take {', '.join(nack['names'])}: {nack['reason']}"


def _text(row: dict[str, Any]) -> str:
    """As in the log: file, line, object, field, what is wrong, what holds instead, what to do."""
    place = f"{row['file']}:{row['line']}" + (f" (document {row['document']})" if row["document"] else "")
    said = ": ".join(filter(None, (place, row["object"], row["field"], row["problem"])))
    return "; ".join(filter(None, (said, row["effect"], row["remedy"])))


def _summary(status: dict[str, Any]) -> str:
    streams = sum(status.get("streams", {}).values())
    ineffective = status.get("no_effect", ())
    more = sum(bool(row.get("outcome")) for row in ineffective)
    kept = sum(row.get("outcome") == "kept" for row in status.get("errors", ()))
    return (
        f"addresses={status.get('addresses', 0)} policies={status.get('policies', 0)} streams={streams} "
        f"refused={len(status.get('errors', ()))} "
        f"{f'kept={kept} ' if kept else ''}"
        f"no-effect={len(ineffective) - more} "
        f"{f'denies-more={more} ' if more else ''}"
        f"warnings={len(_notes(status))} "
        f"listen={status.get('address', '')}"
    )


def _tables(said: dict[str, Any]) -> None:
    width = out.columns_here()
    documents = [
        {"outcome": row["outcome"], "where": f"{row['file']}:{row['line']}", "object": row["object"]}
        for row in said.get("documents", ())
    ]
    if documents:
        click.echo(out.sentences(documents, ["outcome", "object", "where"], width))
    click.echo(f"{counted(said.get('accepted', 0), 'object')} accepted{' beside' if documents else ''}")
    notes = [{"warning": text} for text in _notes(said)]
    click.echo(out.sentences(notes, ["warning"], width) if notes else "no warnings")
    unmet = [
        {
            "object": row["object"],
            "condition": f"{row['condition']} {row['status']}, {row['reason']}: {row['message']}",
        }
        for row in _unmet(said)
    ]
    nothing = "no other object has a condition that is not met"
    click.echo(out.sentences(unmet, ["object", "condition"], width) if unmet else nothing)
    nodes = sorted({*said.get("streams", {}), *said.get("enrolled", {})})
    rows = [
        {
            "node": node,
            "streams": said.get("streams", {}).get(node, 0),
            "enrolled": said.get("enrolled", {}).get(node, []),
        }
        for node in nodes
    ]
    out.show_table(rows, empty="no node is connected")
    vips = [{"service": name, "vips": ips} for name, ips in said.get("vips", {}).items()]
    out.show_table(vips, empty="no Service was given an address")


def _unmet(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Conditions by which something is not as it was asked for, but those of what is refused: a reason says that."""
    refused = {row["object"] for row in said.get("errors", ()) if row["object"]}
    return [
        row
        for row in said.get("conditions", ())
        if row["reason"] not in ("Accepted", "WaypointAccepted") and row["object"] not in refused
    ]


def _notes(said: dict[str, Any]) -> list[str]:
    """Warnings that are not among the reasons."""
    ineffective = {_text(row) for row in said.get("no_effect", ())}
    return [text for text in said.get("warnings", ()) if text not in ineffective]


def _decode(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("want an object")
    return value
