"""Who describes a client that the mesh state does not know: its own node, in the baggage of the request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.state.apply import Batch
from agent.telemetry.record import label_names
from tests.support.two_nodes import World, exchange


def described(world: World) -> dict[str, str]:
    """The one connection in the metrics of the server's node."""
    [labels] = world.driver.call(lambda: list(world.there.metrics._tallies))  # type: ignore[call-overload]
    return dict(zip(label_names(labels), labels, strict=True))


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
def test_what_the_state_does_not_know_of_a_client_its_own_node_says(world: World, is_known: bool) -> None:
    client = replace(world.client, workload_name="client-of-web", canonical_name="client")
    world.driver.call(lambda: world.here.know(client))
    gone = Batch(removed_addresses=(client.uid,))
    world.driver.call(lambda: world.there.know(client) if is_known else world.there.store.apply(gone))
    assert exchange(world.connect()) == b"hello"
    labels = described(world)
    assert (labels["reporter"], labels["source_workload"]) == ("destination", "client-of-web")
    assert labels["source_workload_namespace"] == "apps"
    assert labels["source_principal"] == str(world.client.identity), "this is proven, not said"
