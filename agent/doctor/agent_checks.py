"""Checks of the agent that runs here, or should: what it says of itself, its workers, its pods' certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.admin.client import AgentAbsent, AgentGone, AgentRefused
from agent.doctor.check import Check, Examination, Subject
from agent.doctor.site import Site
from agent.doctor.without_agent import SERVED, START_AGAIN, are_served
from agent.model.counted import counted

ISSUED, SOON_S = "Available", 600.0

AGENT = Subject("agent", "what it answers on its socket")
WORKERS = Subject("workers", "their processes")
CERTIFICATES = Subject("certificates", "those of the identities of this node's pods")


def agent(site: Site) -> Check:
    try:
        status = site.agent.page("/status")
    except AgentRefused as error:
        return AGENT.cannot_tell(str(error))
    except AgentAbsent as error:
        with site.maps() as maps:
            captured = len(maps.ifaces()) if maps is not None else 0
            is_served = isinstance(error, AgentGone) and maps is not None and are_served(maps)
        if not captured:
            return AGENT.ok("none runs, and no pod is captured")
        if is_served:
            return AGENT.failed(f"{SERVED}; {_captured(captured)}", START_AGAIN)
        return AGENT.failed(
            f"{error}, and {_captured(captured)}",
            "start it; its log says why it ended. `ztun uninstall` opens the pods instead",
        )
    if status["state"] == "READY":
        return AGENT.ok(status["line"])
    reasons = status["reasons"]
    more = f" ({len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return AGENT.warning(
        f"{status['state']}: {reasons[0] if reasons else status['line']}{more}",
        "`ztun status` has each reason with what to do",
    )


def _captured(number: int) -> str:
    return f"{counted(number, 'interface')} {'is' if number == 1 else 'are'} captured"


def workers(site: Site) -> Check:
    try:
        status = site.agent.page("/status")
    except (AgentAbsent, AgentRefused):
        return WORKERS.cannot_tell("no agent answers that has any")
    pids = [row["pid"] for row in status["workers"]]
    states = {pid: _state(pid) for pid in pids}
    stopped = [pid for pid, state in states.items() if state in "Tt" and state]
    if stopped:
        named = " ".join(map(str, stopped))
        return WORKERS.failed(f"stopped: {named}", "let them go on", f"kill -CONT {named}")
    gone = [pid for pid, state in states.items() if state in ("", "Z")]
    wanted = site.settings.worker_count
    if gone or len(pids) < wanted:
        return WORKERS.warning(
            f"{len(pids) - len(gone)} of {wanted} are there",
            "the agent starts others; its log says why they ended",
        )
    return WORKERS.ok(f"{len(pids)} alive, {status['worker_restarts']} started anew so far")


def certificates(site: Site) -> Check:
    try:
        rows = site.agent.page("/certificates")["certificates"]
    except (AgentAbsent, AgentRefused):
        return CERTIFICATES.cannot_tell("no agent answers that has any: keys are in its memory alone")
    return judge_certificates(rows)


def judge_certificates(rows: Sequence[Mapping[str, Any]]) -> Check:
    """`rows` as of the agent's page `/certificates`."""
    remedy = "`ztun certificates` has each with its error; is the certificate authority (--ca-address) there?"
    ended = [row for row in rows if row["left_s"] is None or row["left_s"] <= 0]
    if ended:
        first = ended[0]
        return CERTIFICATES.failed(
            f"{len(ended)} of {len(rows)} are missing or have ended, {first['identity']} first: "
            f"{first['error'] or first['state']}",
            remedy,
        )
    late = [row for row in rows if row["failures"] or row["left_s"] < SOON_S]
    if late:
        first = late[0]
        return CERTIFICATES.warning(
            f"{first['identity']} has {first['left_s']:.0f} s left, and was not renewed: "
            f"{first['error'] or first['state']}",
            remedy,
        )
    least = min((row["left_s"] for row in rows), default=None)
    return CERTIFICATES.ok(
        "none is in use" if least is None else f"{len(rows)}, each for {least / 60:.0f} min or more"
    )


def _state(pid: int) -> str:
    """The letter of proc(5); empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


CHECKS = (Examination(AGENT, agent), Examination(WORKERS, workers), Examination(CERTIFICATES, certificates))
