"""Variables that look like options of the agent and are none: said once, as a wrong flag would have been refused.

They are not refused: the environment of a container is not all its author's, and an older agent may be told of an
option that only a newer one has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent import config

_OF_SERVICES = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$")
"""By which the kubelet tells of the Services of a pod's namespace: `ztun-control-plane` is one."""


def strangers(names: Iterable[str]) -> list[str]:
    """A line for each variable `ZTUN_*` of these that is no option, with the nearest that is one."""
    known = [f"ZTUN_{name.upper()}" for name in config.options()]
    return [
        _said(name, known)
        for name in sorted(names)
        if name.startswith("ZTUN_") and name not in known and not _OF_SERVICES.search(name)
    ]


def _said(name: str, known: list[str]) -> str:
    import difflib  # only here: most starts have nothing to say, and each waits for it

    near = difflib.get_close_matches(name, known, 1)
    what = f"is {near[0]} meant?" if near else "`ztun agent --help` lists those that there are"
    return f"variable {name} is no option of the agent and has no effect: {what}"
