"""All checks of a node, at once: each in a thread of the caller's namespaces, so that one that waits keeps no other."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from agent.doctor import (
    agent_checks,
    cni_check,
    firewall,
    kernel_checks,
    mount_checks,
    names_check,
    network_checks,
    plane_checks,
    process_checks,
    program_checks,
)
from agent.doctor.check import Check, Examination
from agent.doctor.site import Site
from redirect.errors import RedirectError, WrongNode
from redirect.side_check import require_here

CHECKS: tuple[Examination, ...] = (
    *kernel_checks.CHECKS,
    *mount_checks.CHECKS,
    *network_checks.CHECKS,
    *names_check.CHECKS,
    *cni_check.CHECKS,
    *firewall.CHECKS,
    *program_checks.CHECKS,
    *process_checks.CHECKS,
    *plane_checks.CHECKS,
    *agent_checks.CHECKS,
)
NAMES = tuple(each.subject.name for each in CHECKS)
THREADS = 12
PROGRESS_S = 2.0


def examine(
    site: Site, names: Collection[str] = NAMES, still: Callable[[Sequence[str]], None] = lambda _: None
) -> list[Check]:
    """The checks of these names, in the order of NAMES; `still` is told every PROGRESS_S which are not done."""
    chosen = [each for each in CHECKS if each.subject.name in names]
    with ThreadPoolExecutor(THREADS) as threads:
        begun = {threads.submit(look, each, site): each.subject.name for each in chosen}
        left: set[Future[Check]] = set(begun)
        while left:
            done, left = wait(left, PROGRESS_S, FIRST_COMPLETED)
            if not done:
                still([begun[each] for each in begun if each in left])
        return [each.result() for each in begun]


def look(examination: Examination, site: Site) -> Check:
    """One check; what keeps it from its answer is its answer."""
    try:
        if examination.is_of_network:
            return _within(examination, site)
        return examination.look(site)
    except (OSError, RedirectError) as error:
        return examination.subject.cannot_tell(f"it cannot be looked at: {error}")


def _within(examination: Examination, site: Site) -> Check:
    """In the node's network namespace; nobody can tell where that is another than we are in. Raises OSError."""
    with site.inside():
        try:
            if os.geteuid() == 0:
                require_here(site.instance)
        except WrongNode:
            return examination.subject.cannot_tell(
                f"instance {site.instance} is of another network namespace than this one",
                "ask there",
                _there(site),
            )
        check = examination.look(site)
    if site.netns is None or not check.command or check.command.startswith("nsenter "):
        return check
    command = f"sh -c {shlex.quote(check.command)}" if ";" in check.command else check.command
    return dataclasses.replace(check, command=f"nsenter --net={site.netns} {command}")


def _there(site: Site) -> str:
    """The command that asks in the namespace of the agent; of one that is dead nobody knows where that was."""
    pid = site.agent.pid
    namespace = f"/proc/{pid}/ns/net" if pid else "/run/netns/NAME"
    return f"nsenter --net={namespace} ztun doctor --instance {site.instance} --run-dir {site.run_dir}"
