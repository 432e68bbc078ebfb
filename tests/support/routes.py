"""Resolving in tests: one call from resources and a destination to the route or the refusal."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest

from agent.model.outcome import Refusal
from agent.model.route import Hop, Route
from agent.model.service import Service
from agent.model.workload import Workload
from agent.state.resolve import Options, resolve
from tests.support.mesh import at, service, snapshot, workload

SOURCE = workload("src", "10.0.0.9", "fd00::9", service_account="src")
POD = workload("pod", "10.0.0.1", "fd00::1", service_account="pod")
ENDPOINT = workload("ep", "10.0.0.3", "fd00::3", services={"web": {}}, service_account="ep")
WEB = service(
    "web", "10.9.0.1", "fd09::1", subject_alt_names=("spiffe://cluster.local/ns/x/sa/extra", "dns.name")
)

DEFAULTS = Options()


def route(
    resources: Iterable[Workload | Service],
    destination: str,
    source: Workload = SOURCE,
    options: Options = DEFAULTS,
    seed: int = 1,
) -> Route:
    return resolve(snapshot(source, *resources), source, at(destination), Random(seed), options)


def refusal(resources: Iterable[Workload | Service], destination: str, **kw: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        route(resources, destination, **kw)
    return caught.value


def brief(found: Route) -> tuple[Hop, str, str | None]:
    return found.hop, str(found.target), found.authority
