"""How ztunnel spells values in its environment, as texts that `agent.config` takes. Pure; knows no variable's name.

What cannot be taken raises Refused, whose text continues `NAME='value': `. Upstream: ztunnel `src/config.rs`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from agent.log_levels import ACCESS, NUMBERS, Levels, NoLevel

_DURATION = re.compile(r"(\d+)(ms|h|m|s)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_DEFAULT_WORKERS = 2
MOST_WORKERS = 64
TLS_PORT = 443


class Refused(ValueError):
    """A value that cannot be honoured, and must not be ignored; the text says why and what to do."""


def switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise Refused("it takes true or false")
    return text == "true"


def boolean(text: str) -> str:
    return str(switch(text)).lower()


def seconds(text: str) -> str:
    """`5s`, `1h30m`, `500ms`: seconds as a number."""
    if not re.fullmatch(f"({_DURATION.pattern})+", text):
        raise Refused("it takes a duration like 5s, 500ms or 1h30m")
    milliseconds = sum(int(count) * _UNIT_MS[unit] for count, unit in _DURATION.findall(text))
    return f"{milliseconds / 1000:g}" if milliseconds % 1000 else str(milliseconds // 1000)


def whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise Refused("it takes a whole number")
    return int(text)


def grace(text: str) -> str:
    """The drain deadline that fits into a grace period, both in seconds: so that the end is ours, not the kubelet's."""
    given = whole(text)
    return str(max(1, given - 5 if given > 10 else given - 1))


def address(text: str) -> str:
    """HOST:PORT of an address with or without `https://`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "https", text
    if scheme != "https":
        raise Refused(
            f"{scheme}:// is not spoken: this agent speaks TLS with its control plane; name a TLS port"
        )
    rest = rest.rstrip("/")
    if not rest:
        raise Refused("without a control plane there is nothing to serve: name one, HOST:PORT")
    has_port = re.search(r":\d+$", rest) and (rest.count(":") == 1 or "]:" in rest)
    return rest if has_port else f"{rest}:{TLS_PORT}"


def log_level(text: str) -> tuple[str, tuple[str, ...]]:
    """What `--log-level` takes, and the clauses that are about targets which nothing here has.

    ztunnel's access log follows the level of everything, ours has its own: so it is named.
    """
    levels, strange = Levels(), []
    for clause in filter(None, map(str.strip, text.split(","))):
        try:
            levels = levels.with_spec(clause)
        except NoLevel as reason:
            target, sign, level = clause.rpartition("=")
            if not target or not sign or level.lower() not in NUMBERS:
                raise Refused(str(reason)) from reason
            strange.append(clause)
    if levels.overall != "info" and ACCESS not in dict(levels.targets):
        levels = levels.with_spec(f"{ACCESS}={levels.overall}")
    return str(levels), tuple(strange)


def cores(text: str) -> int:
    """Whole cores of a Kubernetes quantity (`2`, `1.5`, `500m`), rounded up."""
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise Refused("it takes a number of cores like 2, 1.5 or 500m")
    return math.ceil(float(found[1]) / (1000 if found[2] else 1))


def workers(
    wanted: str | None, concurrency: int | None, limit: int | None, request: int | None, machine: int
) -> int:
    """How many workers, as upstream counts its threads.

    `wanted` is a number, `0` for all cores, or `NN%`; then `concurrency` counts; then limit and request of the pod, in
    cores. `machine`: the cores there are.
    """
    available = limit or machine
    if wanted is not None and wanted.endswith("%"):
        percent = float(wanted[:-1]) if re.fullmatch(r"\d+(\.\d+)?%", wanted) else 0.0
        if not 0 < percent <= 100:
            raise Refused("a share is above 0% and at most 100%")
        count = max(1, math.ceil(available * percent / 100))
    elif wanted is not None:
        count = whole(wanted) or available
    elif concurrency is not None:
        count = concurrency or available
    elif limit is not None:
        count = max(limit, request or 0)
    else:
        count = max(math.ceil(available / 4), request or 0, _DEFAULT_WORKERS)
    return min(max(1, count), MOST_WORKERS)


def json_object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused(f"it takes JSON: {error}") from error
