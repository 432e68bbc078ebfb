"""The client's half of delta ADS: bookkeeping, refusals, resumption; no network."""

from __future__ import annotations

import pytest

from agent.pb.xds_pb2 import DeltaDiscoveryRequest, Node
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, MAX_REASONS_CHARS, Received, XdsDelta, make_node
from tests.support.xds import response

Pushed = tuple[str, str, bytes]


def push(
    delta: XdsDelta,
    resources: list[Pushed] | None = None,
    removed: tuple[str, ...] = (),
    refuse: dict[str, str] | None = None,
    type_url: str = ADDRESS,
) -> DeltaDiscoveryRequest:
    received = delta.receive(response(type_url, resources or [], removed))
    return delta.settle(received, refuse or {})


def opened() -> XdsDelta:
    delta = XdsDelta(Node(id="me"))
    delta.open()
    return delta


def resume(delta: XdsDelta) -> dict[str, dict[str, str]]:
    return {r.type_url: dict(r.initial_resource_versions) for r in delta.open()}


def test_opens_with_addresses_then_policies_as_wildcards() -> None:
    requests = XdsDelta(Node(id="me")).open()
    assert [r.type_url for r in requests] == [ADDRESS, AUTHORIZATION]
    for request in requests:
        assert request.node.id == "me"
        assert not request.resource_names_subscribe and not request.initial_resource_versions
        assert not request.response_nonce


def test_the_node_is_said_as_istiod_wants_it() -> None:
    node = make_node(
        ip="10.1.2.3", pod="ztun-1", namespace="sys", node_name="n1", metadata={"CLUSTER_ID": "c1"}
    )
    assert node.id == "ztunnel~10.1.2.3~ztun-1.sys~sys.svc.cluster.local"
    assert dict(node.metadata) == {
        "NAME": "ztun-1",
        "NAMESPACE": "sys",
        "INSTANCE_IPS": "10.1.2.3",
        "NODE_NAME": "n1",
        "CLUSTER_ID": "c1",
    }


def test_receives_updates_and_removals_in_order() -> None:
    received = opened().receive(
        response(ADDRESS, [("a", "1", b"x"), ("b", "2", b"y")], ["c", "d", "c"], "n7")
    )
    assert [tuple(r) for r in received.updates] == [("a", "1", b"x"), ("b", "2", b"y")]
    assert received.removed == ("c", "d") and received.nonce == "n7" and received.is_known


def test_the_first_answer_of_each_stream_is_known_by_type() -> None:
    delta = opened()

    def is_first(type_url: str) -> bool:
        received = delta.receive(response(type_url, []))
        delta.settle(received, {})
        return received.is_first

    for _ in range(2):
        assert [is_first(t) for t in (ADDRESS, ADDRESS, AUTHORIZATION, ADDRESS, AUTHORIZATION)] == [
            True, False, True, False, False,
        ]  # fmt: skip
        delta.open()


def test_of_one_name_twice_the_last_counts() -> None:
    received = opened().receive(response(ADDRESS, [("a", "1", b"old"), ("b", "1", b""), ("a", "2", b"new")]))
    assert [(r.name, r.version) for r in received.updates] == [("b", "1"), ("a", "2")]


def test_what_is_pushed_again_unchanged_is_passed_on() -> None:
    delta = opened()
    for _ in range(2):
        received = delta.receive(response(ADDRESS, [("a", "1", b"x")]))
        assert [r.name for r in received.updates] == ["a"], (
            "whether it changes anything is the state's to say"
        )
        assert not delta.settle(received, {}).HasField("error_detail")
    assert delta.accepted(ADDRESS) == {"a": "1"}


def test_an_ack_is_bare() -> None:
    ack = push(opened(), [("a", "1", b"")])
    assert ack == DeltaDiscoveryRequest(type_url=ADDRESS, response_nonce="n")


def test_a_nack_names_each_resource_and_keeps_the_others() -> None:
    delta = opened()
    nack = push(
        delta, [("a", "1", b""), ("b", "1", b""), ("c", "1", b"")], refuse={"a": "no", "c": "c: not that"}
    )
    assert nack.error_detail.message == "a: no; c: not that" and nack.error_detail.code == 0
    assert delta.accepted(ADDRESS) == {"b": "1"} and delta.refused == {"a": "no", "c": "c: not that"}


def test_ten_thousand_refusals_make_a_request_a_server_takes() -> None:
    resources = [(f"name-{n}", "1", b"") for n in range(10_000)]
    nack = push(opened(), resources, refuse={name: "no" * 20 for name, _, _ in resources})
    assert len(nack.error_detail.message) < MAX_REASONS_CHARS + 100
    assert nack.error_detail.message.startswith("name-0: nono")
    shown = nack.error_detail.message.count("name-")
    assert nack.error_detail.message.endswith(f"; and {10_000 - shown} more")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.ClearField("resource"), "a: it has no body"),
        (lambda r: r.ClearField("name"), "(unnamed resource 0): it has no name"),
        (lambda r: setattr(r.resource, "type_url", AUTHORIZATION), f"a: its body is a {AUTHORIZATION}"),
    ],
)
def test_a_resource_without_name_body_or_the_right_type_is_refused_unseen(spoil: object, said: str) -> None:
    delta = opened()
    message = response(ADDRESS, [("a", "1", b"x"), ("good", "1", b"y")])
    spoil(message.resources[0])
    received = delta.receive(message)
    assert [r.name for r in received.updates] == ["good"]
    assert delta.settle(received, {}).error_detail.message == said
    assert delta.accepted(ADDRESS) == {"good": "1"}


def test_a_resource_without_a_name_is_not_held_against_what_comes_later() -> None:
    """Nothing that is sent later could take it back by its name."""
    delta = opened()
    message = response(ADDRESS, [("a", "1", b"x"), ("b", "1", b"y")])
    message.resources[0].ClearField("name")
    push(delta, [("c", "1", b"")], refuse={"c": "no"})
    delta.settle(delta.receive(message), {})
    assert delta.refused == {"c": "no", "(unnamed resource 0)": "it has no name"}
    push(delta, [("d", "1", b"")])
    assert delta.refused == {"c": "no"}, "one with a name stands until it is sent again, or removed"


def test_a_type_never_asked_for_is_acknowledged() -> None:
    delta = opened()
    received = delta.receive(response("other", [("a", "1", b"")]))
    assert received == Received("other", "n", is_known=False)
    assert delta.settle(received, {}) == DeltaDiscoveryRequest(type_url="other", response_nonce="n")
    assert not delta.is_synced


def test_resumes_with_what_was_accepted_and_not_removed() -> None:
    delta = opened()
    push(delta, [("a", "1", b""), ("b", "1", b""), ("c", "1", b"")], refuse={"c": "no"})
    push(delta, [("b", "2", b"")], removed=("a", "never-seen"))
    push(delta, [("ns/all", "", b"")], type_url=AUTHORIZATION)
    assert resume(delta) == {ADDRESS: {"b": "2"}, AUTHORIZATION: {"ns/all": ""}}


def test_a_refused_update_leaves_the_version_that_is_held() -> None:
    delta = opened()
    push(delta, [("a", "1", b"")])
    push(delta, [("a", "2", b"")], refuse={"a": "no"})
    assert resume(delta)[ADDRESS] == {"a": "1"}, "so that the server sends version 2 again"


def test_a_refused_removal_is_told_again() -> None:
    delta = opened()
    push(delta, [("a", "1", b"")])
    push(delta, removed=("a",), refuse={"a": "cannot go"})
    assert resume(delta)[ADDRESS] == {"a": "1"}


def test_what_is_received_and_never_settled_is_asked_for_again() -> None:
    delta = opened()
    delta.receive(response(ADDRESS, [("a", "1", b"")]))
    assert resume(delta)[ADDRESS] == {}


def test_synced_once_both_types_were_answered_in_full() -> None:
    delta = opened()
    push(delta)
    assert not delta.is_synced
    push(delta, type_url=AUTHORIZATION)
    assert delta.is_synced, "zero resources are an answer too"


@pytest.mark.parametrize("type_url", [ADDRESS, AUTHORIZATION])
def test_a_refused_resource_of_the_first_state_is_named_and_holds_up_nothing(type_url: str) -> None:
    delta = opened()
    for each in (ADDRESS, AUTHORIZATION):
        assert not delta.is_synced
        push(delta, [("a", "1", b"")], type_url=each, refuse={"a": "no"} if each == type_url else {})
    assert delta.is_synced and delta.refused == {"a": "no"}
    push(delta, [("b", "1", b"")], type_url=type_url)
    assert delta.refused == {"a": "no"}, "an ACK about something else does not take it back"
    push(delta, [("a", "2", b"")], type_url=type_url)
    assert delta.refused == {}


def test_a_refused_resource_that_is_removed_is_no_longer_named() -> None:
    delta = opened()
    push(delta, [("a", "1", b"")], refuse={"a": "no"})
    push(delta, removed=("a",))
    assert delta.refused == {}


def test_a_refused_resource_that_went_between_two_streams_is_no_longer_named() -> None:
    delta = opened()
    push(delta, [("a", "1", b""), ("b", "1", b"")], refuse={"a": "no"})
    delta.open()
    push(delta, [("a", "1", b"")], refuse={"a": "still no"})
    assert delta.refused == {"a": "still no"}
    delta.open()
    push(delta)
    assert delta.refused == {}


def test_a_resume_too_long_for_a_request_falls_back_to_the_whole_state() -> None:
    delta = XdsDelta(Node(id="me"), max_resume_bytes=100)
    delta.open()
    push(delta, [(f"name-{n}", "1", b"") for n in range(50)])
    push(delta, [("ns/all", "", b"")], type_url=AUTHORIZATION)
    assert resume(delta) == {ADDRESS: {}, AUTHORIZATION: {"ns/all": ""}}
    received = delta.receive(response(ADDRESS, [("name-1", "1", b""), ("name-99", "1", b"")]))
    assert set(received.removed) == {f"name-{n}" for n in range(50)} - {"name-1"}
    delta.settle(received, {})
    assert set(delta.accepted(ADDRESS)) == {"name-1", "name-99"}
    assert delta.receive(response(ADDRESS, [("x", "1", b"")])).removed == (), "only the first answer is whole"
