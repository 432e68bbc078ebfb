"""Which names of the mesh a pod may mean by a name that it asks for: pure.

A pod's resolver appends search domains before it asks, and people write names of Services in every length that
Kubernetes takes. So a name is tried as it is, as the Service that it is short for, and with each search domain of the
pod's namespace taken off again. The order is ztunnel's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Candidate(NamedTuple):
    """A name to look for. `stripped`: what was left of the asked name without a search domain; empty: it had none."""

    name: str
    stripped: str


def candidates(name: str, namespace: str, domain: str) -> list[Candidate]:
    """In the order in which they are tried, each once. `name`: lower case, no dot at its end."""
    found = dict.fromkeys((name, *expansions(name, namespace, domain)), "")
    for suffix in (f".{namespace}.svc.{domain}", f".svc.{domain}", f".{domain}"):
        stripped = name.removesuffix(suffix)
        if stripped and stripped != name:
            for each in (stripped, *expansions(stripped, namespace, domain)):
                found.setdefault(each, stripped)
    return [Candidate(each, stripped) for each, stripped in found.items()]


def expansions(name: str, namespace: str, domain: str) -> Iterator[str]:
    """The full names of Services that a short one may stand for."""
    labels = name.split(".")
    ends_in_svc = labels[-1] == "svc"
    match len(labels):
        case 1:
            yield f"{name}.{namespace}.svc.{domain}"
        case 2:
            yield f"{name}.svc.{domain}"
            yield f"{name}.{namespace}.svc.{domain}"
        case 3:
            if ends_in_svc:
                yield f"{name}.{domain}"
            yield f"{name}.svc.{domain}"
        case 4 if ends_in_svc:
            yield f"{name}.{domain}"


def wildcards(name: str) -> Iterator[str]:
    """The wildcard names that cover a name, the closest one first."""
    rest = name
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
