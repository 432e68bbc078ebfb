"""Whether any name can match a pattern of a policy: `x`, `x*`, `*x` or `*`. Pure.

A misspelt principal is still text: a DENY of `cluster.local/sa/web` looks like one of somebody and is one of nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NAME_PART = re.compile("[a-z0-9-]*")
DOTTED_PART = re.compile("[a-z0-9.-]*")
DOMAIN_PART = re.compile("[a-z0-9._-]*")
PRINCIPAL: Sequence[str | re.Pattern[str]] = (DOMAIN_PART, "ns", NAME_PART, "sa", DOTTED_PART)
"""The segments of a principal: fixed words, and what the others are made of."""


def may_be_namespace(pattern: str) -> bool:
    return bool(NAME_PART.fullmatch(pattern.strip("*")))


def may_be_principal(pattern: str) -> bool:
    """Whether a pattern finds any `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`."""
    segments = pattern.strip("*").split("/")
    if pattern == "*":
        return True
    if pattern.startswith("*"):
        return _follow([s[::-1] for s in reversed(segments)], [_reversed(k) for k in reversed(PRINCIPAL)])
    if pattern.endswith("*"):
        return _follow(segments, PRINCIPAL)
    return len(segments) == len(PRINCIPAL) and _follow([*segments, ""], [*PRINCIPAL, NAME_PART])


def _follow(segments: Sequence[str], known: Sequence[str | re.Pattern[str]]) -> bool:
    """Whether the segments can begin what `known` describes; all but the last are whole."""
    if len(segments) > len(known):
        return False
    *whole, last = zip(segments, known, strict=False)
    return all(
        bool(text) and (text == kind if isinstance(kind, str) else bool(kind.fullmatch(text)))
        for text, kind in whole
    ) and (last[1].startswith(last[0]) if isinstance(last[1], str) else bool(last[1].fullmatch(last[0])))


def _reversed(kind: str | re.Pattern[str]) -> str | re.Pattern[str]:
    return kind[::-1] if isinstance(kind, str) else kind
