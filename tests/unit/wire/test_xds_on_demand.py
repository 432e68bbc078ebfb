"""Addresses that are asked for by name: what a client on demand says, and what it takes for an answer."""

from __future__ import annotations

import pytest

from agent.pb.xds_pb2 import DeltaDiscoveryRequest, Node
from agent.wire import xds_delta
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, XdsDelta
from tests.support.xds import response

VIP, NOBODY, POD = "/10.96.0.10", "/10.10.0.99", "Kubernetes//Pod/apps/web-1"
WEB = "apps/web.apps.svc.cluster.local"


def opened() -> XdsDelta:
    delta = XdsDelta(Node(id="me"), is_on_demand=True)
    delta.open()
    return delta


def hear(
    delta: XdsDelta,
    *resources: str,
    aliases: tuple[str, ...] = (),
    removed: tuple[str, ...] = (),
    refuse: tuple[str, ...] = (),
) -> frozenset[str]:
    """A response is applied and settled; answers what it has answered. `aliases` are those of the first resource."""
    message = response(ADDRESS, [(name, "v1", b"") for name in resources], removed)
    if aliases:
        message.resources[0].aliases.extend(aliases)
    received = delta.receive(message)
    delta.settle(received, dict.fromkeys(refuse, "no thanks"))
    return received.answers


def first(delta: XdsDelta) -> DeltaDiscoveryRequest:
    return next(request for request in delta.open() if request.type_url == ADDRESS)


def test_a_stream_begins_by_asking_for_nothing_which_is_said_as_all_and_not_all() -> None:
    addresses, policies = XdsDelta(Node(id="me"), is_on_demand=True).open()
    assert (list(addresses.resource_names_subscribe), list(addresses.resource_names_unsubscribe)) == (
        ["*"],
        ["*"],
    )
    assert policies.type_url == AUTHORIZATION and not policies.resource_names_subscribe, "all of them"


def test_a_question_is_a_request_of_its_own_and_is_asked_once() -> None:
    delta = opened()
    request = delta.ask(VIP)
    assert request is not None and list(request.resource_names_subscribe) == [VIP]
    assert not request.response_nonce and not request.HasField("node")
    assert delta.ask(VIP) is None, "it is on its way"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (VIP, {"resources": (WEB, POD), "aliases": (VIP,)}),
        (POD, {"resources": (POD,)}),
        (NOBODY, {"resources": (), "removed": (NOBODY,)}),
        (POD, {"resources": (POD,), "refuse": (POD,)}),
    ],
    ids=["by alias", "by name", "as nothing", "refused here"],
)
def test_it_is_answered(name: str, says: dict[str, tuple[str, ...]]) -> None:
    delta = opened()
    delta.ask(name)
    assert hear(delta, *says.pop("resources"), **says) == {name}
    assert delta.is_used_up(name), "this stream would not answer it again"


def test_what_comes_unasked_answers_nothing() -> None:
    delta = opened()
    delta.ask(VIP)
    assert hear(delta, POD, aliases=("/10.10.0.6",), removed=("gone",)) == frozenset()
    assert not delta.is_used_up(VIP)


def test_the_next_stream_holds_what_came_and_asks_what_was_not_answered() -> None:
    delta = opened()
    for name in (VIP, NOBODY):
        delta.ask(name)
    hear(delta, WEB, POD, aliases=(VIP,), refuse=(POD,))
    request = first(delta)
    assert list(request.resource_names_subscribe) == ["*", NOBODY]
    assert dict(request.initial_resource_versions) == {WEB: "v1", POD: "", NOBODY: ""}
    assert not delta.is_used_up(VIP), "the new stream has not been asked"
    assert delta.ask(NOBODY) is None, "it asks that already"


def test_questions_and_what_a_stream_was_asked_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xds_delta, "MAX_QUESTIONS", 2)
    monkeypatch.setattr(xds_delta, "MAX_ASKED", 3)
    delta = opened()
    for low in range(3):
        delta.ask(f"/10.0.0.{low}")
    assert list(first(delta).resource_names_subscribe) == ["*", "/10.0.0.1", "/10.0.0.2"]
    delta.ask("/10.0.0.9")
    assert delta.is_used_up("/10.0.0.10"), "another stream, which begins with what is there"
