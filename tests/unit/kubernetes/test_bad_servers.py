"""An API server that misbehaves: what is known holds, the reason is named, and it is heard again soon after."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import kube
from tests.support.kube import FakeApi
from tests.support.kube_watch import Counted, Following, following

NODE = "n1"


def test_connections_that_hang_without_a_word_are_given_up(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.kubernetes.reflector.WATCH_SLACK_S", 0.5)
    fake.bookmark_s = 0.1
    with following(fake, NODE, watch_s=1) as seen:
        seen.until(lambda: seen.watches == 1)
        fake.hold_connections()
        fake.create(kube.pod("meanwhile", node=NODE))
        seen.until(lambda: seen.names == {"meanwhile"})
        assert seen.lists == 1, "nothing was forgotten: the watch was resumed"


@pytest.mark.parametrize("is_event", [True, False], ids=["event", "answer"])
def test_a_version_that_is_too_old_is_told_in_two_ways(fake: FakeApi, is_event: bool) -> None:
    fake.is_gone_an_event = is_event
    with following(fake, NODE, watch_s=1) as seen:
        seen.until(lambda: seen.watches == 1)
        seen.pause()
        fake.break_watches()
        fake.create(kube.pod("meanwhile", node=NODE))
        fake.forget_versions()
        seen.go_on()
        seen.until(lambda: seen.names == {"meanwhile"})
        assert seen.lists == 2 and not seen.problem


def test_lists_come_in_pages_and_one_that_expires_midway_begins_anew(tmp_path: Path) -> None:
    with FakeApi(tmp_path, page_objects=2) as fake:
        for number in range(5):
            fake.create(kube.pod(f"pod-{number}", node=NODE))
        fake.refuse(410, "continue=")
        with following(fake, NODE) as seen:
            seen.until(lambda: seen.is_listed)
            assert len(seen.names) == 5 and not seen.problem
        pages = [line for line in fake.requests if "limit" in line]
        assert len(pages) == 2 + 3


def test_a_busy_server_is_asked_no_sooner_than_it_said(fake: FakeApi) -> None:
    fake.refuse(429, "limit=", Retry_After="2")
    began_s = time.monotonic()
    with following(fake, NODE) as seen:
        seen.until(lambda: "busy" in seen.problem)
        seen.until(lambda: seen.is_listed)
        assert time.monotonic() - began_s >= 2 and not seen.problem


@pytest.mark.parametrize(("verb", "line"), [("list", "limit="), ("watch", "watch=1")])
def test_rights_that_are_missing_are_named_with_the_verbs(fake: FakeApi, verb: str, line: str) -> None:
    fake.create(kube.pod("web", node=NODE))
    fake.refuse(403, line, message=f'User "a" cannot {verb} resource "pods"')
    with following(fake, NODE) as seen:
        seen.until(lambda: "forbids" in seen.problem)
        assert (
            f'cannot {verb} resource "pods"' in seen.problem and "get, list and watch on pods" in seen.problem
        )
        seen.until(lambda: not seen.problem and seen.names == {"web"})


def test_another_clusters_ca_and_another_name_are_told_apart(fake: FakeApi) -> None:
    other, _ = kube.server_certificate()
    good = fake.ca_file.read_bytes()
    fake.ca_file.write_bytes(other)
    with following(fake, NODE) as seen:
        seen.until(lambda: "cannot be verified" in seen.problem)
        assert str(fake.ca_file) in seen.problem and "another cluster" in seen.problem
        fake.ca_file.write_bytes(good)
        seen.until(lambda: seen.is_listed)
    misnamed = type("Named", (), {"access": replace(fake.access, server_name="elsewhere")})()
    with following(misnamed, NODE) as seen:
        seen.until(lambda: "for another name" in seen.problem)
        assert "tls-server-name" in seen.problem


def test_files_that_are_missing_or_empty_are_named(fake: FakeApi) -> None:
    for content, words in (("", "is empty"), (None, "cannot be read")):
        if content is None:
            fake.token_file.unlink()
        else:
            fake.token_file.write_text(content)
        with following(fake, NODE) as seen:
            seen.until(lambda words=words: words in seen.problem)
            assert str(fake.token_file) in seen.problem


def test_a_token_that_is_not_accepted_is_named_and_the_next_one_is_used(fake: FakeApi) -> None:
    """Another cluster's, or one that has expired: also while the API is being watched."""
    good = fake.token_file.read_text()
    fake.token_file.write_text("of another cluster")
    with following(fake, NODE, watch_s=1) as seen:
        seen.until(lambda: "does not accept" in seen.problem)
        assert "(pods: 401)" in seen.problem and "expired, or of another cluster?" in seen.problem
        fake.create(kube.pod("web", node=NODE))
        fake.token_file.write_text(good)
        seen.until(lambda: seen.names == {"web"} and not seen.problem)
        fake.tokens = {"renewed"}
        seen.until(lambda: "expired, or of another cluster?" in seen.problem)
        assert seen.names == {"web"}, "nobody is let go"
        fake.create(kube.pod("more", node=NODE))
        fake.token_file.write_text("renewed")
        seen.until(lambda: seen.names == {"web", "more"} and not seen.problem)


@pytest.mark.parametrize(
    ("field", "value"), [("name", None), ("uid", None), ("labels", ["x"])], ids=["name", "uid", "labels"]
)
def test_an_object_without_the_usual_fields_is_named_and_the_others_are_told(
    fake: FakeApi, field: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    broken = fake.create(kube.pod("broken", node=NODE))
    with following(fake, NODE) as seen:
        seen.until(lambda: seen.names == {"broken"})
        broken["metadata"][field] = value
        with fake._changed:
            fake._version += 1
            fake._note("MODIFIED", broken)
        fake.create(kube.pod("fine", node=NODE))
        seen.until(lambda: "fine" in seen.names)
        assert "broken" in seen.names, "what it was holds"
        assert any(field in text for text in seen.watcher.skipped)
    (line,) = [text for text in caplog.messages if "cannot be used" in text]
    assert field in line and "Kubernetes API" in line


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b"[]\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"NEW","object":{"metadata":{}}}\n',
        b'{"type":"ADD',
    ],
    ids=["garbage", "list", "no-object", "unknown-type", "cut-off"],
)
def test_an_event_that_is_none_ends_the_watch_and_not_the_watching(
    fake: FakeApi, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    listed = json.dumps

    def once(value: object, *args: object, **named: object) -> str:
        if isinstance(value, dict) and value.get("type") == "BOOKMARK" and not sent:
            sent.append(value)
            return line.decode().removesuffix("\n")
        return listed(value, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("tests.support.kube.json.dumps", once)
    with following(fake, NODE) as seen:
        seen.until(lambda: seen.watches >= 2)
        fake.create(kube.pod("after", node=NODE))
        seen.until(lambda: seen.names == {"after"} and not seen.problem)
        assert sent and seen.lists == 1


def test_a_server_that_closes_every_watch_at_once_is_not_asked_all_the_time(fake: FakeApi) -> None:
    with following(fake, NODE) as seen:
        seen.until(lambda: seen.watches == 1)
        ends_s = time.monotonic() + 2
        while time.monotonic() < ends_s:
            fake.break_watches()
            time.sleep(0.005)
        assert seen.watches <= 6


def test_a_node_that_stops_does_not_wait_for_a_server_that_hangs(fake: FakeApi) -> None:
    with following(fake, NODE) as seen:
        seen.until(lambda: seen.watches == 1)
        fake.hold_connections()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 30, "the block ends with the thread"


@pytest.mark.parametrize("how", ["connect", "handshake", "answer"])
def test_a_node_that_stops_does_not_wait_for_a_server_that_never_begins(
    fake: FakeApi, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.kubernetes.connection.CONNECT_PATIENCE_S", 60.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as others:
        if how == "connect":
            # A queue that is full: the kernel drops what comes next, and the client waits.
            for _ in range(4):
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(server.getsockname())
        if how == "answer":
            monkeypatch.setattr(fake, "listed", lambda *_: time.sleep(60) or {})
        port = fake.port if how == "answer" else server.getsockname()[1]
        there = type("There", (), {"access": replace(fake.access, port=port)})()
        with following(there, NODE) as seen:
            seen.until(lambda: seen.lists == 1 and seen.watcher._connection._socket is not None)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 30


def test_what_counts_requests_counts_them(fake: FakeApi) -> None:
    with following(fake, NODE) as seen:
        seen.until(lambda: seen.watches == 1)
        assert isinstance(seen, Following) and isinstance(seen.reflector, Counted)
        seen.until(lambda: sum("watch=1" in line for line in fake.requests) == 1)
        assert sum("limit=500" in line for line in fake.requests) == 1
        assert all("fieldSelector=spec.nodeName%3Dn1" in line for line in fake.requests)
