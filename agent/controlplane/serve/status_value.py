"""What `ztun control-plane status` may say, as one value; `status` keeps it in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FILE = "status.json"
Row = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class NackReport:
    """The newest refusal of a node for one type."""

    node: str
    type_url: str
    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`is_serving`: the manifests were read whole once. `streams`: node -> open discovery streams.

    `unheard`: nodes with pods of which no agent has said what it captures since what was known before is lost.
    `errors` is what was refused, `no_effect` what does nothing, `warnings` everything to be said but the errors,
    `conditions` those of every object that has any in Istio. `documents` has each of which anything is to be said, with
    what came of it in a word, and `accepted` is how many there are of which nothing is.
    """

    address: str = ""
    metrics_address: str = ""
    manifests: str = ""
    is_serving: bool = False
    errors: tuple[Row, ...] = ()
    no_effect: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()
    conditions: tuple[Row, ...] = ()
    documents: tuple[Row, ...] = ()
    accepted: int = 0
    vips: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    enrolled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    streams: Mapping[str, int] = field(default_factory=dict)
    unheard: tuple[str, ...] = ()
    nacks: tuple[NackReport, ...] = ()
    addresses: int = 0
    policies: int = 0
