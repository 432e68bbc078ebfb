"""Which answers are compressed, and how: gzip, for clients that take it (RFC 9110 8.4.1.3 and 12.5.3).

Prometheus and browsers ask for it always. What an answer says about itself (`Content-Encoding`, `Vary`) is written by
`server`.
"""

from __future__ import annotations

import gzip

WORTH_BYTES = 1024
"""Below this an answer fits a packet anyway."""
LEVEL = 5


def is_taken(accept_encoding: str) -> bool:
    """Whether a request with this `Accept-Encoding` takes gzip. Without the header it is not asked for."""
    weights: dict[str, float] = {}
    for entry in accept_encoding.split(","):
        coding, _, parameters = entry.partition(";")
        weights[coding.strip().lower()] = _weight(parameters)
    named = [weights[coding] for coding in ("gzip", "x-gzip") if coding in weights]
    return max(named or [weights.get("*", 0.0)]) > 0


def _weight(parameters: str) -> float:
    """The `q` among the parameters of a coding: 1 if there is none, 0 if it cannot be read."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def compressed(body: bytes) -> bytes:
    """The same bytes for the same body: no time of making in it."""
    return gzip.compress(body, LEVEL, mtime=0)
