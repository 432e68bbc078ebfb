"""Conversations recorded from a real istiod: its turns go in, our requests must be the recorded ones.

tests/vectors/talks/README.md tells what was recorded. The talk of a client that asks by name is played to our control
plane as well, in tests/unit/controlplane/serve/test_on_demand.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.pb.xds_pb2 import DeltaDiscoveryRequest, Node
from agent.wire.xds_delta import ADDRESS, AUTHORIZATION, XdsDelta
from tests.support.xds import response

TALKS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "vectors/talks/talks.json").read_text()
)
TYPES = {"Address": ADDRESS, "Authorization": AUTHORIZATION}
OURS = sorted(TALKS.keys() - {"on-demand"})


@dataclass
class Server:
    """Gives the recorded versions (`new`, `same`, `none`) values."""

    versions: dict[str, str] = field(default_factory=dict)
    made: int = 0

    def version(self, name: str, kind: str) -> str:
        if kind == "none":
            return ""
        if kind == "new" or name not in self.versions:
            self.made += 1
            self.versions[name] = f"v{self.made}"
        return self.versions[name]

    def say(self, turn: dict[str, Any]) -> Any:
        resources = [(n, self.version(n, r["version"]), b"") for n, r in turn["resources"].items()]
        return response(TYPES[turn["type"]], resources, turn.get("removed", ()), turn["nonce"])


def as_turn(request: DeltaDiscoveryRequest, held: dict[str, str]) -> dict[str, Any]:
    """One of our requests in the words of the recording; `held`: versions the server knows by name."""
    turn: dict[str, Any] = {"type": next(t for t, url in TYPES.items() if url == request.type_url)}
    if request.initial_resource_versions:
        turn["initial_versions"] = {
            name: "same" if version in (held.get(name), "") else version
            for name, version in request.initial_resource_versions.items()
        }
    if request.response_nonce:
        turn["response_nonce"] = request.response_nonce
    if request.HasField("error_detail"):
        turn["error"] = request.error_detail.message
    return turn


def streams(talk: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The talk, cut where the client reconnects."""
    part: list[dict[str, Any]] = []
    for turn in talk:
        if "the client reconnects" in turn.get("note", ""):
            yield part
            part = []
        part.append(turn)
    yield part


@pytest.mark.parametrize("name", OURS)
def test_our_requests_are_the_recorded_ones(name: str) -> None:
    delta, server, compared = XdsDelta(Node(id="me")), Server(), 0
    for part in streams(TALKS[name]):
        synthetic = any("stale" in turn.get("note", "") for turn in part)
        if synthetic:
            delta = remembering(part)
        compared += play(delta, server, part, synthetic)
    assert compared, "a recording in which none of our requests was found proves nothing"


def remembering(part: list[dict[str, Any]]) -> XdsDelta:
    """A client that holds what the recorded one claimed to hold: stale, empty, gone."""
    delta = XdsDelta(Node(id="me"))
    delta.open()
    for turn in (t["client"] for t in part if "initial_versions" in t.get("client", {})):
        held = [(name, version, b"") for name, version in turn["initial_versions"].items()]
        delta.settle(delta.receive(response(TYPES[turn["type"]], held)), {})
    return delta


def play(delta: XdsDelta, server: Server, part: list[dict[str, Any]], synthetic: bool) -> int:
    """One stream of a talk; answers how many of our requests were compared."""
    compared = 0
    held = {} if synthetic else server.versions
    first = {t["type"]: t for t in (as_turn(r, held) for r in delta.open())}
    answers: dict[str, dict[str, Any]] = {}
    refuse = {t["client"]["response_nonce"] for t in part if "error" in t.get("client", {})}
    for turn in part:
        said = turn.get("client")
        if "server" in turn and turn["server"] != "silence":
            received = delta.receive(server.say(turn["server"]))
            refused = dict.fromkeys((r.name for r in received.updates), "no thanks")
            answer = delta.settle(received, refused if received.nonce in refuse else {})
            answers[received.nonce] = as_turn(answer, held)
        elif said is not None and "response_nonce" in said and said["response_nonce"] in answers:
            assert comparable(answers.pop(said["response_nonce"]), synthetic) == comparable(said, synthetic)
            compared += 1
        elif said is not None and said["type"] in first and "response_nonce" not in said:
            assert comparable(first.pop(said["type"]), synthetic) == comparable(said, synthetic)
            compared += 1
        elif said is not None and set(said) & {"subscribe", "unsubscribe"}:
            return compared  # from here on the talk is about subscriptions by name
    assert not answers, "each push is answered once"
    return compared


def comparable(turn: dict[str, Any], synthetic: bool) -> dict[str, Any]:
    """Without what is free: the words of a refusal; `*` said or left out. Empty versions read `same` above."""
    result = dict(turn)
    if "error" in result:
        result["error"] = True
    if result.get("subscribe") == ["*"] and "unsubscribe" not in result:
        del result["subscribe"]
    if synthetic and "initial_versions" in result:
        result["initial_versions"] = {n: v.replace("same", "") for n, v in result["initial_versions"].items()}
    return result


def test_the_end_of_the_reconnect_talk_holds_what_the_server_has() -> None:
    delta, server = XdsDelta(Node(id="me")), Server()
    for part in streams(TALKS["reconnect"]):
        if any("stale" in turn.get("note", "") for turn in part):
            delta = remembering(part)
        delta.open()
        for turn in part:
            if "server" in turn and turn["server"] != "silence":
                delta.settle(delta.receive(server.say(turn["server"])), {})
    assert delta.accepted(ADDRESS) == server.versions
    assert delta.accepted(AUTHORIZATION) == {"apps/all": ""} and delta.is_synced


def test_our_questions_are_the_recorded_ones_and_what_istiod_says_answers_them() -> None:
    """Up to where the recorded client takes a name back, which ours never does."""
    delta, server, answered, compared = XdsDelta(Node(id="me"), is_on_demand=True), Server(), set[str](), 0
    said = {next(t for t, url in TYPES.items() if url == r.type_url): r for r in delta.open()}
    for turn in TALKS["on-demand"]:
        client = turn.get("client", {})
        if client.get("unsubscribe", ["*"]) != ["*"]:
            break
        if "server" in turn and turn["server"] != "silence":
            received = delta.receive(with_aliases(server.say(turn["server"]), turn["server"]))
            said[turn["server"]["type"]] = delta.settle(received, {})
            answered |= received.answers
        for name in client.get("subscribe", ()):
            if name != "*" and not delta.is_used_up(name):
                said["Address"] = delta.ask(name)
            elif name != "*":
                client = {}  # asked twice, which ours does on another stream
        if client:
            ours = said.pop(client["type"])
            assert list(ours.resource_names_subscribe) == client.get("subscribe", [])
            assert list(ours.resource_names_unsubscribe) == client.get("unsubscribe", [])
            assert ours.response_nonce == client.get("response_nonce", "")
            compared += 1
    assert answered == {"/10.96.0.10", "/10.10.0.99"} and compared > 8


def with_aliases(message: Any, turn: dict[str, Any]) -> Any:
    for resource in message.resources:
        resource.aliases.extend(turn["resources"][resource.name].get("aliases", ()))
    return message
