"""What whoever starts an agent has given it, on the command line and by the environment: read, and what is odd in it.

The command line is read here where it is plain, for most starts are and none shall wait for click. What is not plain,
or not sound, is left to `agent.cli`, which reads it again and refuses it in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from agent import config

_OF_SERVICES = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$")
"""By which the kubelet tells of the Services of a pod's namespace: `ztun-control-plane` is one."""


def plain_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Values by name of the option. Raises ConfigError where there is more than `--name value` and `--name=value`."""
    known = {f"--{name.replace('_', '-')}": name for name in config.options()}
    flags: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        flag, has_value, value = argument.partition("=")
        given = value if has_value else next(rest, "-")
        # One that looks like a flag may be the next one, where a value was forgotten.
        if flag not in known or (not has_value and given.startswith("-")):
            raise config.ConfigError(f"{argument!r} is no plain flag of the agent")
        flags[known[flag]] = given
    return flags


def settings_of(flags: Mapping[str, str | None]) -> config.Config:
    """What an agent needs, of flags by name and of the environment. Raises ConfigError."""
    settings = config.from_environment(flags)
    if not settings.node:
        raise config.ConfigError("--node is missing: the name of this node, as in spec.nodeName of its pods")
    if not settings.root_cert:
        raise config.ConfigError(
            "--root-cert is missing: the root of the control plane, e.g. root.pem of the embedded one's --state-dir"
        )
    return settings


def without_effect(names: Iterable[str]) -> list[str]:
    """A line for each variable `ZTUN_*` of these that is no option, with the nearest that is one.

    They are not refused, as a wrong flag is: the environment of a container is not all its author's, and an older agent
    may be told of an option that only a newer one has.
    """
    known = [config.variable(name) for name in config.options()]
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
