"""Desired against the kernel, told in words: the comparison of `Redirection.prove`, as rows for people and programs.

With an agent what is desired is what it wants; without one, what the maps say that it wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from redirect import features, hooks, host_addresses, prefilter
from redirect.desired import Desired
from redirect.findings import Finding, of_prefilter
from redirect.hooks import Hook
from redirect.maps import Maps
from redirect.observe import interfaces
from redirect.reconcile import Redirection

AGENT, MAPS = "agent", "maps"
"""Who says what is desired."""
Report = dict[str, object]


def by_maps(redirection: Redirection) -> Report:
    """Of an instance without an agent; writes nothing. Raises RedirectError, OSError."""
    places = redirection.captured()
    found = [
        *redirection.prove(Desired(tuple(each.desired() for each in places), host_addresses.local())),
        *_left_over(redirection),
    ]
    pods = {each.ifindex: each.owner.partition(" ")[0] for each in places}
    return _with_programs(MAPS, redirection, found, pods)


def by_agent(redirection: Redirection, found: Iterable[Finding], pods: Mapping[int, str]) -> Report:
    """`found`: what the agent has found by what it wants; `pods` as in `report`. Raises RedirectError, OSError."""
    return _with_programs(AGENT, redirection, found, pods)


def _with_programs(
    by: str, redirection: Redirection, found: Iterable[Finding], pods: Mapping[int, str]
) -> Report:
    """A running agent goes by the numbers of programs that it holds; whether these are its own only their tags say."""
    return report(by, [*found, *redirection.built_elsewhere()], pods, running(redirection, pods))


def _left_over(redirection: Redirection) -> list[Finding]:
    """Of what only an agent knows how it is desired: what none can have left so."""
    with Maps(redirection.pins.generation) as maps:
        return [*of_prefilter([*prefilter.left_over(maps.fds, maps.ifaces().keys())])]


def running(redirection: Redirection, ifindexes: Iterable[int]) -> tuple[Hook, ...]:
    """What runs at these interfaces and at the devices that lead into the private namespaces. Raises OSError."""
    conf = redirection.conf()
    wanted = {*ifindexes, conf.pod_side_ifindex, conf.net_side_ifindex} & interfaces().keys()
    return hooks.read(wanted, redirection.pins.program_ids(), has_tcx=features.has_tcx())


def report(by: str, found: Iterable[Finding], pods: Mapping[int, str], running: Iterable[Hook]) -> Report:
    """`pods`: whose each captured interface is, empty where nobody knows."""
    names = interfaces()
    return {
        "desired_by": by,
        "interfaces": len(pods),
        "drift": [
            {
                "part": each.part.value,
                "pod": pods.get(each.ifindex or 0, ""),
                "interface": names.get(each.ifindex or 0, ""),
                "reason": each.reason,
                "remedy": each.remedy,
                "is_mendable": each.is_mendable,
            }
            for each in found
        ],
        "hooks": [
            {
                "interface": names.get(each.ifindex, ""),
                "hook": each.hook,
                "programs": [
                    {
                        "id": one.program_id,
                        "name": one.name,
                        "tag": one.tag,
                        "by": one.by,
                        "is_ours": one.is_ours,
                    }
                    for one in each.programs
                ],
            }
            for each in running
        ],
    }
