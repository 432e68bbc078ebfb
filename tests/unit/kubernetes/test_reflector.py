"""List and watch as values: what is asked next, when, and what a new list says of what was missed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.failure import Failure
from agent.kubernetes.objects import NAMESPACES, Namespace, pods_of_node
from agent.kubernetes.reflector import Fetch, Gone, Listed, Put, Reflector, Wait, WatchOver
from tests.support import kube

FAILED = Failure("gone wrong")


def raw(name: str, version: int, uid: str = "") -> kube.Raw:
    return {"metadata": {"name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}}


def page(*items: kube.Raw, version: int = 10, more: str = "") -> bytes:
    meta = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
    return json.dumps({"metadata": meta, "items": list(items)}).encode()


def event(kind: str, item: kube.Raw) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def made() -> Reflector[Namespace]:
    return Reflector(NAMESPACES, Random(1))


def asked(reflector: Reflector[Any], now_s: float = 0.0) -> Mapping[str, list[str]]:
    step = reflector.next_step(now_s)
    assert isinstance(step, Fetch)
    return parse_qs(urlsplit(step.path).query)


def listed(*items: kube.Raw, version: int = 10) -> Reflector[Namespace]:
    reflector = made()
    asked(reflector)
    reflector.page(page(*items, version=version), 0.0)
    return reflector


def test_the_first_list_is_of_the_newest_state_and_the_watch_goes_on_from_it() -> None:
    reflector = made()
    assert "resourceVersion" not in asked(reflector), "a list from a cache may lack a pod that there is"
    told = reflector.page(page(raw("a", 3), version=12), 0.0)
    assert [type(each) for each in told] == [Put, Listed]
    query = asked(reflector)
    assert query["resourceVersion"] == ["12"] and query["allowWatchBookmarks"] == ["true"]


def test_pages_are_told_when_the_last_one_is_there() -> None:
    reflector = made()
    asked(reflector)
    assert reflector.page(page(raw("a", 3), more="next"), 0.0) == [] and not reflector.is_listed
    assert asked(reflector)["continue"] == ["next"]
    told = reflector.page(page(raw("b", 4)), 0.0)
    assert [each.object.name for each in told if isinstance(each, Put)] == ["a", "b"]


def test_events_and_bookmarks_move_the_version_on() -> None:
    reflector = listed()
    asked(reflector)
    reflector.line(event("ADDED", raw("a", 11)), 1.0)
    reflector.ended(300.0)
    assert asked(reflector, 300.0)["resourceVersion"] == ["11"]
    assert reflector.line(event("BOOKMARK", {"metadata": {"resourceVersion": "40"}}), 301.0) == []
    reflector.ended(600.0)
    assert asked(reflector, 600.0)["resourceVersion"] == ["40"]


def test_watches_of_many_nodes_do_not_end_together() -> None:
    times = set()
    for seed in range(20):
        reflector = Reflector(NAMESPACES, Random(seed))
        asked(reflector)
        reflector.page(page(), 0.0)
        step = reflector.next_step(0.0)
        assert isinstance(step, Fetch)
        (text,) = parse_qs(urlsplit(step.path).query)["timeoutSeconds"]
        assert step.patience_s == int(text) + 10
        times.add(int(text))
    assert len(times) > 10 and min(times) >= 240 and max(times) <= 360


def test_a_name_with_another_uid_is_gone_and_there() -> None:
    reflector = listed(raw("a", 3))
    asked(reflector)
    told = reflector.line(event("MODIFIED", raw("a", 11, "other")), 1.0)
    assert [type(each) for each in told] == [Gone, Put]
    assert told[0] == Gone("", "a", "uid-a")


def test_a_late_deletion_of_what_is_not_known_says_nothing() -> None:
    reflector = listed()
    asked(reflector)
    assert reflector.line(event("DELETED", raw("a", 11)), 1.0) == []


def test_a_forgotten_version_is_listed_anew_at_once_but_not_again_and_again() -> None:
    reflector = listed()
    asked(reflector)
    reflector.failed(Failure("too old", is_gone=True), 1.0)
    assert "watch" not in asked(reflector, 1.0) and reflector.problem is None
    reflector.page(page(version=20), 1.0)
    asked(reflector, 1.0)
    reflector.failed(Failure("too old", is_gone=True), 1.0)
    assert isinstance(reflector.next_step(1.0), Wait)


def test_failures_wait_longer_each_time_up_to_a_limit_and_not_in_step() -> None:
    reflector, now_s, waits = made(), 0.0, []
    for _ in range(12):
        assert isinstance(reflector.next_step(now_s), Fetch)
        reflector.failed(FAILED, now_s)
        step = reflector.next_step(now_s)
        assert isinstance(step, Wait)
        waits.append(step.seconds)
        now_s += step.seconds
    assert waits[0] < 0.5 and 7 <= waits[-1] <= 23
    assert made().problem is None and reflector.problem == FAILED


def test_a_watch_that_lived_makes_up_for_failures_before() -> None:
    reflector = listed()
    for _ in range(10):
        reflector.failed(FAILED, 0.0)
    step = reflector.next_step(0.0)
    assert isinstance(step, Wait) and step.seconds > 7
    asked(reflector, 100.0)
    reflector.opened()
    assert reflector.problem is None
    reflector.ended(400.0)
    assert isinstance(reflector.next_step(400.0), Fetch)


def test_a_server_is_not_asked_before_it_said_and_not_by_all_at_once() -> None:
    waits = []
    for seed in range(5):
        reflector = Reflector(NAMESPACES, Random(seed))
        asked(reflector)
        reflector.failed(Failure("busy", retry_after_s=60), 0.0)
        step = reflector.next_step(0.0)
        assert isinstance(step, Wait)
        waits.append(step.seconds)
    assert all(60 <= each <= 72 for each in waits) and len(set(waits)) == 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"metadata":{},"items":[]}',
        b'{"metadata":{"resourceVersion":"1"},"items":[3]}',
    ],
)
def test_a_list_that_is_none_is_a_failure_and_takes_nothing_away(body: bytes) -> None:
    reflector = listed(raw("a", 3))
    asked(reflector)
    reflector.failed(Failure("too old", is_gone=True), 1.0)
    asked(reflector, 1.0)
    assert reflector.page(body, 1.0) == [] and "cannot be read" in str(reflector.problem)
    assert isinstance(reflector.next_step(1.0), Wait)


def test_only_pods_of_the_node_are_asked_for() -> None:
    assert asked(Reflector(pods_of_node("n1"), Random(1)))["fieldSelector"] == ["spec.nodeName=n1"]


_NAMES = st.sampled_from("abc")
_EVENTS = st.lists(st.tuples(st.sampled_from(["put", "delete", "again", "lose"]), _NAMES), max_size=30)


@given(_EVENTS)
def test_whatever_is_missed_the_next_list_makes_up_for(events: list[tuple[str, str]]) -> None:
    """`lose`: the watch breaks, and its version is forgotten; everything until then goes by unseen."""
    reflector, there, known = listed(), {}, {}
    is_watching, version = True, 10

    def hear(told: list[Any]) -> None:
        for each in told:
            if isinstance(each, Put):
                known[each.object.name] = each.object.uid
            elif isinstance(each, Gone):
                assert known.pop(each.name) == each.uid, "what goes was there, as that"

    asked(reflector)
    for kind, name in events:
        version += 1
        if kind == "lose" and is_watching:
            is_watching = False
            reflector.failed(Failure("too old", is_gone=True), 0.0)
        elif kind == "delete" and name in there:
            uid, _ = there.pop(name)
            if is_watching:
                hear(reflector.line(event("DELETED", raw(name, version, uid)), 0.0))
        elif kind in ("put", "again"):
            uid = there[name][0] if kind == "put" and name in there else f"{name}-{version}"
            told = "MODIFIED" if name in there and there[name][0] == uid else "ADDED"
            if is_watching and name in there and told == "ADDED":
                hear(reflector.line(event("DELETED", raw(name, version, there[name][0])), 0.0))
            there[name] = uid, version
            if is_watching:
                hear(reflector.line(event(told, raw(name, version, uid)), 0.0))
    if not is_watching:
        asked(reflector, 1000.0)
        hear(reflector.page(page(*(raw(n, v, u) for n, (u, v) in there.items()), version=version), 1000.0))
    assert known == {name: uid for name, (uid, _) in there.items()}


@given(st.binary(max_size=60))
def test_no_line_does_more_than_end_its_watch(line: bytes) -> None:
    reflector = listed(raw("a", 3))
    asked(reflector)
    try:
        reflector.line(line, 1.0)
    except WatchOver:
        assert reflector.problem is not None


# -- resources that a server may lack

LACKING = Failure("no such resource", is_missing=True)


def optional() -> Reflector[Namespace]:
    return Reflector(dataclasses.replace(NAMESPACES, may_lack=True), Random(1))


def test_a_resource_that_the_server_lacks_has_no_objects_and_is_asked_for_again() -> None:
    reflector = optional()
    asked(reflector)
    assert reflector.failed(LACKING, 0.0) == [Listed()]
    assert reflector.is_listed and reflector.problem is None
    assert isinstance(reflector.next_step(20.0), Wait) and isinstance(reflector.next_step(37.0), Fetch)
    [put, _] = reflector.page(page(raw("a", 3)), 37.0)
    assert isinstance(put, Put)


def test_what_is_known_of_a_resource_outlives_a_server_that_lacks_it_for_a_moment() -> None:
    reflector = optional()
    asked(reflector)
    reflector.page(page(raw("a", 3)), 0.0)
    for now_s in (10.0, 40.0, 69.0):
        assert reflector.failed(LACKING, now_s) == [] and reflector.problem is LACKING
    told = reflector.failed(LACKING, 70.0)
    assert told == [Gone("", "a", "uid-a"), Listed()]


def test_a_list_in_between_begins_the_patience_anew() -> None:
    reflector = optional()
    asked(reflector)
    reflector.page(page(raw("a", 3)), 0.0)
    assert not reflector.failed(LACKING, 10.0)
    reflector.page(page(raw("a", 3), version=11), 60.0)
    assert not reflector.failed(LACKING, 75.0)


def test_an_older_server_is_asked_where_it_has_the_resource_and_a_newer_one_again_where_it_has_it() -> None:
    reflector = Reflector(dataclasses.replace(NAMESPACES, path="/new", older_path="/old"), Random(1))
    for now_s, path in ((0.0, "/new"), (20.0, "/old")):
        step = reflector.next_step(now_s)
        assert isinstance(step, Fetch) and step.path.startswith(path + "?")
        if path == "/new":
            assert not reflector.failed(LACKING, now_s)
    assert [type(each) for each in reflector.page(page(raw("a", 3)), 20.0)] == [Put, Listed]
    assert not reflector.failed(LACKING, 40.0), "what is known stays"
    step = reflector.next_step(60.0)
    assert isinstance(step, Fetch) and step.path.startswith("/new?") and "watch" not in step.path


def test_a_resource_that_every_server_has_is_waited_for() -> None:
    reflector = made()
    asked(reflector)
    assert not reflector.failed(LACKING, 0.0) and not reflector.is_listed and reflector.problem is LACKING
