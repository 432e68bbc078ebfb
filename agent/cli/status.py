"""`ztun status`: is this node's agent well? One line, `-o table` with pods and VIPs, `-o json`; exit 0, 3 or 4."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from agent.admin import client
from agent.cli import output as out
from agent.cli.kinds import Seconds
from agent.cli.which import Which, which_agent
from agent.model.counted import counted

EXIT_CODES = {"READY": 0, "DEGRADED": 3, "DEAD": 4}
LOOK_EVERY_S = 0.2
TELL_AFTER_S = 2.0
"""Who waits longer is told for what, and again when that changes."""
PATIENCE_S = 10.0
"""Of one look: an agent that does not answer that long is DEAD to who asks."""


@click.command()
@which_agent
@out.option_of(
    "line", "table", "json", help="One line and the reasons, tables with pods and Services, or everything."
)
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait until the agent is READY.  [default: 0]",
)
def status(which: Which, output: str, wait_s: float) -> None:
    """Show whether the agent is well, and if not, why.

    The first word is READY (exit status 0), DEGRADED (3) or DEAD (4).
    """
    deadline = time.monotonic() + wait_s
    told_at, told = time.monotonic() + TELL_AFTER_S, ""
    answer = ask(which, min(PATIENCE_S, wait_s) or PATIENCE_S)
    while answer["state"] != "READY" and (left_s := deadline - time.monotonic()) > 0:
        time.sleep(min(LOOK_EVERY_S, left_s))
        answer = ask(which, max(1.0, min(PATIENCE_S, deadline - time.monotonic())))
        if answer["state"] != "READY" and time.monotonic() >= told_at and told != (words := missing(answer)):
            left_s = max(0.0, deadline - time.monotonic())
            click.echo(f"waiting, {left_s:.0f} s at most, until the agent is READY; it is {words}", err=True)
            told = words
    if output == "json":
        out.show_json(answer)
    else:
        click.echo(answer["line"])
        for row in answer["bypasses"] if answer["state"] == "DEAD" else ():
            click.echo(f"  bypass: {bypass_words(row)}")
        for reason in answer["reasons"][1:] if answer["state"] == "DEAD" else ():
            click.echo(f"  {reason}")
        if answer["state"] != "DEAD":
            for reason in answer["reasons"]:
                click.echo(f"  {reason}")
            for text in remarks(answer):
                click.echo(f"  remark: {text}")
            for limit in answer.get("limits", ()):  # one of an older version does not say
                click.echo(f"  limited: {limit}")
            for text in retiring(answer):
                click.echo(f"  {text}")
            if text := unguarded(answer):
                click.echo(f"  {text}")
            for fault in (answer.get("prefilter") or {}).get("left_to_workers", ()):
                click.echo(f"  programs do not deny for some pods, workers do: {fault}")
    if output == "table" and answer["state"] != "DEAD":
        if answer.get("zds"):
            out.show_table([zds_row(answer["zds"])])
        out.show_table(
            answer["pods"], ["pod", "identity", "interface", "addresses"], empty="no pod is enrolled"
        )
        if answer["waiting"]:
            out.show_table([waiting_row(row) for row in answer["waiting"]])
        services = [{"service": name, "vips": vips} for name, vips in answer["services"].items()]
        out.show_table(services, empty="no Service is known")
    sys.exit(EXIT_CODES[answer["state"]])


def ask(which: Which, patience_s: float) -> Any:
    """The agent's answer, or what stands for it where there is none. Raises AgentRefused."""
    try:
        return client.ask(which.socket, "GET", "/status", patience_s=patience_s)
    except client.AgentAbsent as error:
        if os.geteuid() != 0:
            return dead(str(error))
        # Only here: it loads the kernel side, which no other status needs.
        from agent.cli.bypass import kernel_words

        words = kernel_words(which)
        served = words.served if isinstance(error, client.AgentGone) else ""
        return dead(served or str(error), words.ejected, words.bypasses)


def missing(answer: dict[str, Any]) -> str:
    """What keeps it from being READY, without figures that change all the time."""
    return f"{answer['state']}: {'; '.join(answer['reasons'])}"


def bypass_words(row: dict[str, Any]) -> str:
    whose = f"pod {row['pod'] or row['interface']} speaks" if row["scope"] == "pod" else "all pods speak"
    return f"{whose} in clear for {out.duration(row['left_s'])} more: {row['reason']} (by {row['who']})"


def unguarded(answer: dict[str, Any]) -> str:
    """What may have passed in clear; it stays said for as long as the agent lives. Empty: nothing."""
    passed = answer.get("unguarded_packets", {})  # one of an older version does not say
    outbound, inbound = (passed.get(way, 0) for way in ("outbound", "inbound"))
    if not outbound and not inbound:
        return ""
    return (
        f"since the agent started no more than {counted(outbound, 'packet')} of captured pods and {inbound} to them "
        "passed while a program of ours was off or behind another: its log says when, and of which pod"
    )


def remarks(answer: dict[str, Any]) -> Iterator[str]:
    """What is seen and changes no state, since anybody can bring it about."""
    for row in answer["proof"]["findings"]:
        if row.get("is_remark"):  # one of an older version does not say
            yield f"pod {row['pod']}: {row['reason']}; {row['remedy']}"


def retiring(answer: dict[str, Any]) -> Iterator[str]:
    """The workers of before, as long as they are there."""
    left = {each["from_pid"]: each["left"] for each in answer.get("hand_overs", ())}
    for worker in answer.get("retiring_workers", ()):
        whose = f"worker {worker['slot']} (pid {worker['pid']}) retires"
        if worker["pid"] not in left:
            yield f"{whose}: it serves until its successor does, or hands over to it"
            continue
        stays = ", ".join(f"{count} × {why}" for why, count in left[worker["pid"]].items())
        yield f"{whose}: it has handed over{f', and drains {stays}' if stays else ''}"


def waiting_row(row: dict[str, Any]) -> dict[str, Any]:
    """What a wished pod, or a captured interface that nobody knows, waits for."""
    return {
        "waiting": row["pod"] or row["interface"],
        "looked for at": row["where"],
        "missing": row["missing"],
        "since": row["since"],
        "reason": row["reason"],
    }


def zds_row(zds: dict[str, Any]) -> dict[str, Any]:
    """How it stands with the istio-cni that pods are taken from."""
    return {
        "istio-cni": zds["socket"],
        "state": "connected" if zds["is_connected"] else "away",
        "since": zds["since"],
        "snapshot": "whole" if zds["has_snapshot"] else "not yet",
        "pods": zds["pods"],
    }


def dead(reason: str, more: Sequence[str] = (), bypasses: Sequence[dict[str, object]] = ()) -> dict[str, Any]:
    """The answer of an agent that gives none, in the shape of the others."""
    return {
        "state": "DEAD",
        "line": f"DEAD {reason}",
        "reasons": [reason, *more],
        "limits": [],
        "proof": {"age_s": None, "findings": []},
        "node": "",
        "form": None,
        "honest_connect": None,
        "dns_capture": None,
        "dns_fail": None,
        "enforce_waypoint": None,
        "local_path": None,
        "host_traffic": None,
        "on_demand": None,
        "prefilter": None,
        "socks5": None,
        "pods": [],
        "waiting": [],
        "history": [],
        "services": {},
        "workers": [],
        "retiring_workers": [],
        "hand_overs": [],
        "worker_restarts": 0,
        "refused_resources": {},
        "log_lines_lost": {},
        "zds": None,
        "unguarded_packets": {"outbound": 0, "inbound": 0},
        "bypasses": [*bypasses],
    }
