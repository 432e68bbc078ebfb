"""`/limits`: who has how much of what, over all workers."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from agent.admin.server import Request
from agent.model.limits import ConnectionLimit, Limits
from agent.model.policy import Match, ServiceAccountMatch, StringMatch, StringMatchKind
from agent.pages.limits import LimitsPage
from agent.state.apply import Batch
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from tests.support import mesh

BATCH = "spiffe://cluster.local/ns/apps/sa/batch"
FOR_ALL = ConnectionLimit("the annotation of apps/server", Limits(connections=5, bytes_per_second=1000))
FOR_SOME = ConnectionLimit(
    "ConnectionLimit apps/web",
    Limits(connections=3),
    (
        Match(
            principals=(StringMatch(StringMatchKind.SUFFIX, "/batch"),),
            not_namespaces=(
                StringMatch(StringMatchKind.PREFIX, "kube"),
                StringMatch(StringMatchKind.EXACT, "x"),
            ),
            service_accounts=(ServiceAccountMatch("apps", "batch"),),
        ),
    ),
)


def row(client: str, port: int, **changed: str) -> dict[str, str]:
    ends = {"src": f"10.0.0.9:{port}", "actual_dst": "10.0.0.1:80"}
    return {"pod": "apps/server", "direction": "inbound", **ends, "client": client, **changed}


def answered(*limits: ConnectionLimit, workers: list[object]) -> Any:
    store = Store(Snapshot(node="n1"))
    server = mesh.workload("server", node="n1", limits=limits)
    store.apply(Batch(addresses=(server, mesh.workload("free", node="n1"))))

    async def ask_all(what: str) -> list[object]:
        assert what == "connections" and limits, "nobody is asked where there is no limit"
        return workers

    page = LimitsPage(store, SimpleNamespace(ask_all=ask_all))  # type: ignore[arg-type]
    return json.loads(asyncio.run(page(Request("GET", "/limits"))).body)


def test_each_client_that_is_connected_has_its_number_and_its_bounds() -> None:
    workers: list[object] = [
        [row("", 1), row(BATCH, 2), row(BATCH, 3, direction="outbound")],
        None,
        [row(BATCH, 4), row(BATCH, 5, pod="apps/free")],
    ]
    batch, others = answered(FOR_ALL, FOR_SOME, workers=workers)["clients"]
    assert (batch["pod"], batch["client"], batch["open"], batch["connections"]) == (
        "apps/server",
        BATCH,
        2,
        3,
    )
    assert batch["by"] == {"connections": FOR_SOME.name, "bytes_per_s": FOR_ALL.name}
    assert (others["client"], others["open"], others["connections"]) == ("", 1, 5)
    assert (others["new_per_s"], others["bytes_per_s"]) == (None, 1000)


def test_a_limit_names_the_clients_that_it_is_about() -> None:
    for_all, for_some = answered(FOR_ALL, FOR_SOME, workers=[])["limits"]
    assert (for_all["clients"], for_all["from"]) == ("each", [])
    assert for_some["clients"] == "some"
    (source,) = for_some["from"]
    assert set(source.split()) == {
        "principals=*/batch",
        "notNamespaces=kube*,x",
        "serviceAccounts=apps/batch",
    }


def test_without_limits_there_is_nothing() -> None:
    assert answered(workers=[]) == {"limits": [], "clients": []}
