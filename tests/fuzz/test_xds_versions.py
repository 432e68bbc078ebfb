"""Whatever a server sends in whatever order: what we claim to hold is what we applied."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.pb.xds_pb2 import DeltaDiscoveryResponse, Node
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, XdsDelta
from tests.support.xds import response

NAMES = st.sampled_from(["a", "b", "c", "d", ""])
PUSHES = st.builds(
    response,
    st.sampled_from([ADDRESS, AUTHORIZATION, "other"]),
    st.lists(st.tuples(NAMES, st.sampled_from(["", "1", "2"]), st.binary(max_size=2)), max_size=4),
    st.lists(NAMES, max_size=3),
)
STEPS = st.lists(st.one_of(st.just(None), st.tuples(PUSHES, st.frozensets(NAMES))), max_size=12)


@settings(max_examples=150)
@given(STEPS, st.sampled_from([0, 1 << 20]))
def test_versions_are_those_of_what_was_applied(
    steps: list[tuple[DeltaDiscoveryResponse, frozenset[str]] | None], max_resume_bytes: int
) -> None:
    delta = XdsDelta(Node(id="me"), max_resume_bytes=max_resume_bytes)
    delta.open()
    state: dict[str, dict[str, str]] = {ADDRESS: {}, AUTHORIZATION: {}}
    was_synced = False
    for step in steps:
        if step is None:
            for request in delta.open():
                assert request.initial_resource_versions in (state[request.type_url], {})
            continue
        message, unwanted = step
        received = delta.receive(message)
        refused = {r.name: "no" for r in received.updates if r.name in unwanted}
        answer = delta.settle(received, refused)
        assert (answer.type_url, answer.response_nonce) == (message.type_url, message.nonce)
        assert answer.HasField("error_detail") == bool(refused or received.malformed)
        if message.type_url in state:
            held = state[message.type_url]
            held.update({r.name: r.version for r in received.updates if r.name not in refused})
            for name in received.removed:
                if name not in refused:
                    held.pop(name, None)
            assert delta.accepted(message.type_url) == held
        assert delta.is_synced or not was_synced, "synced is for good"
        was_synced = delta.is_synced
    if not delta.refused and was_synced is False:
        for type_url in state:
            delta.settle(delta.receive(response(type_url)), {})
        assert delta.is_synced


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_that_parse_can_be_received(raw: bytes) -> None:
    message = DeltaDiscoveryResponse()
    try:
        message.ParseFromString(raw)
    except Exception:
        return
    message.type_url = ADDRESS
    delta = XdsDelta(Node(id="me"))
    delta.open()
    assert delta.settle(delta.receive(message), {}).type_url == ADDRESS
