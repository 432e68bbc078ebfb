"""Counting in a worker, adding up in control, and the OpenMetrics text, read back by Prometheus' own parser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from agent.model.address import SocketAddress
from agent.model.connection import Direction
from agent.model.outcome import Outcome
from agent.model.workload import Workload
from agent.telemetry import families
from agent.telemetry.exposition import OPENMETRICS, PLAIN, content_type, expose
from agent.telemetry.metrics import Figures, Metrics, Snapshot
from agent.telemetry.record import LabelSet, Opened, labels
from agent.telemetry.totals import Totals

A, B = SocketAddress.parse("10.0.0.1:40000"), SocketAddress.parse("10.0.0.2:80")


def label_set(workload: str, direction: Direction = Direction.OUTBOUND) -> LabelSet:
    return labels(Opened(direction, A, B, Workload(workload, workload, "ns", workload_name=workload)))


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **wanted: str) -> float:
    """Sum of the samples of that name with those labels."""
    found = [v for (n, ls), v in samples(text).items() if n == name and wanted.items() <= dict(ls).items()]
    assert found, f"no sample {name} {wanted}"
    return sum(found)


def through_the_channel(snapshot: Snapshot) -> Snapshot:
    return json.loads(json.dumps(snapshot))


def test_life_of_a_connection_is_counted_under_its_flag() -> None:
    metrics = Metrics("w1")
    handle = metrics.open(label_set("web"))
    handle.add_bytes(to_server=100)
    handle.add_bytes(to_client=9)
    live = expose(metrics.snapshot())
    assert value(live, "istio_tcp_received_bytes_total") == 100
    assert value(live, "istio_tcp_sent_bytes_total") == 9
    assert value(live, "istio_tcp_sockets_open", reporter="source") == 1
    assert not any(name.startswith("istio_tcp_connections_closed") for name, _ in samples(live))
    handle.close(Outcome.POLICY_CHANGED)
    handle.close(Outcome.OK)
    ended = expose(metrics.snapshot())
    assert value(ended, "istio_tcp_connections_opened_total", response_flags="-", source_workload="web") == 1
    assert value(ended, "istio_tcp_connections_closed_total", response_flags="DENY") == 1
    assert value(ended, "istio_tcp_connections_failed_total", response_flags="DENY") == 1
    assert value(ended, "istio_tcp_sockets_open", reporter="source") == 0
    assert value(ended, "istio_tcp_received_bytes_total", response_flags="-") == 100
    assert (handle.to_server_bytes, handle.to_client_bytes) == (100, 9)


def test_a_good_connection_does_not_count_as_failed() -> None:
    metrics = Metrics("w1")
    metrics.open(label_set("web")).close(Outcome.OK)
    assert not any("failed" in name for name, _ in samples(expose(metrics.snapshot())))


def test_bytes_of_an_opened_pair_show_from_zero_on() -> None:
    metrics = Metrics("w1")
    metrics.open(label_set("web"))
    assert value(expose(metrics.snapshot()), "istio_tcp_sent_bytes_total") == 0


def test_workers_add_up() -> None:
    totals = Totals()
    for name, count in (("w1", 2), ("w2", 3)):
        metrics = Metrics(name)
        for _ in range(count):
            metrics.open(label_set("web"))
        metrics.figures.add(families.LOG_LINES_LOST, "access", count=10)
        totals.update(through_the_channel(metrics.snapshot()))
    text = expose(totals.snapshot())
    assert value(text, "istio_tcp_connections_opened_total") == 5
    assert value(text, "istio_tcp_sockets_open") == 5
    assert value(text, "ztun_log_lines_lost_total") == 20


def test_a_replaced_worker_keeps_its_counts_but_not_its_open_connections() -> None:
    totals, old, new = Totals(), Metrics("pid1"), Metrics("pid2")
    old.open(label_set("web"))
    old.figures.add(families.LOG_LINES_LOST, "access")
    old.figures.put(families.HBONE_CONNECTIONS, "client", count=7)
    totals.update(old.snapshot())
    totals.update(new.snapshot())
    totals.retire("pid1")
    totals.update(old.snapshot())  # it was on its way: what it says is in the sum already
    text = expose(totals.snapshot())
    assert value(text, "istio_tcp_connections_opened_total") == 1
    assert value(text, "istio_tcp_sockets_open") == 0
    assert "ztun_hbone_connections" not in text.decode()
    assert value(text, "ztun_log_lines_lost_total") == 1


def test_a_connection_that_goes_on_in_another_process_is_one() -> None:
    totals, giver, taker = Totals(), Metrics("1-17-5"), Metrics("0-17-9")  # pids of two containers
    handle = giver.open(label_set("web"))
    handle.add_bytes(100, 10)
    handle.leave()
    handle.leave()
    taken = taker.resume(handle.labels, handle.to_server_bytes, handle.to_client_bytes)
    taken.add_bytes(1, 2)
    for metrics in (giver, taker):
        totals.update(through_the_channel(metrics.snapshot()))
    text = expose(totals.snapshot())
    assert value(text, "istio_tcp_sockets_open") == 1
    assert value(text, "istio_tcp_connections_opened_total") == 1
    totals.retire("1-17-5")
    taken.close(Outcome.POLICY_CHANGED)
    totals.update(through_the_channel(taker.snapshot()))
    text = expose(totals.snapshot())
    assert value(text, "istio_tcp_sockets_open") == 0
    assert value(text, "istio_tcp_connections_opened_total") == 1
    assert value(text, "istio_tcp_connections_closed_total") == 1
    assert value(text, "istio_tcp_received_bytes_total") == 101
    assert value(text, "istio_tcp_sent_bytes_total") == 12
    assert (taken.to_server_bytes, taken.to_client_bytes) == (101, 12), "its line has all of them"


def test_what_a_worker_of_another_build_counts_besides_is_left_out() -> None:
    totals, worker = Totals(), Metrics("1-17-5")
    worker.open(label_set("web"))
    snapshot = worker.snapshot()
    snapshot["figures"] += [
        ("ztun_moods", ["well"], 1.0),
        (families.LOG_LINES_LOST.name, ["access", "more"], 1.0),
    ]
    snapshot["tcp"] += [(["source", "a"], [1, 2, 3, 4, 5]), (list(label_set("db")), [1, 2, 3, 4, 5, 6])]
    totals.update(through_the_channel(snapshot))
    for _ in range(2):
        text = expose(totals.snapshot())
        assert value(text, "istio_tcp_connections_opened_total") == 1
        assert "moods" not in text.decode()
        totals.retire("1-17-5")


steps = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["open", "another", "bytes", "close", "die", "report", "anew"])
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps)
def test_no_counter_ever_goes_backwards_and_changes_add_up_to_the_whole(steps: list[tuple[int, str]]) -> None:
    totals, whole, lives = Totals(), Totals(), [0, 0, 0]
    workers = [Metrics(f"{n}-0") for n in range(3)]
    handles = [[], [], []]
    seen: Mapping[object, float] = {}
    for who, what in steps:
        if what == "open":
            handles[who].append(workers[who].open(label_set("web")))
        elif what == "another":
            handles[who].append(workers[who].open(label_set("cart")))
        elif what == "bytes" and handles[who]:
            handles[who][-1].add_bytes(3, 4)
        elif what == "close" and handles[who]:
            handles[who].pop().close(Outcome.TLS_FAILED)
        elif what == "die":
            totals.retire(f"{who}-{lives[who]}")
            whole.retire(f"{who}-{lives[who]}")
            lives[who] += 1
            workers[who], handles[who] = Metrics(f"{who}-{lives[who]}"), []
        elif what == "anew":
            workers[who].tell_anew()
        whole.update(through_the_channel(workers[who].snapshot()))
        totals.update(through_the_channel(workers[who].changes()))
        now = samples(expose(totals.snapshot()))
        assert now == samples(expose(whole.snapshot()))
        counters = {key: count for key, count in now.items() if key[0].endswith("_total")}
        assert all(counters[key] >= count for key, count in seen.items())
        seen = counters


def test_what_has_not_changed_is_told_once() -> None:
    metrics = Metrics("w1")
    handles = [metrics.open(label_set(f"pod-{n}")) for n in range(10)]
    assert len(metrics.changes()["tcp"]) == 10
    for handle in handles:
        handle.add_bytes(0, 0)
    assert metrics.changes()["tcp"] == []
    handles[3].add_bytes(to_server=5)
    handles[3].add_bytes(to_client=2)
    [(labels_told, counts)] = metrics.changes()["tcp"]
    assert "pod-3" in labels_told and counts == [1, 0, 0, 5, 2]
    handles[4].close(Outcome.OK)
    assert len(metrics.changes()["tcp"]) == 1
    metrics.tell_anew()
    assert len(metrics.changes()["tcp"]) == 10 and metrics.changes()["tcp"] == []


def test_label_sets_are_bounded_and_the_rest_is_counted_together() -> None:
    metrics = Metrics("w1", limit=3)
    handles = [metrics.open(label_set(f"pod-{n}")) for n in range(10)]
    for handle in handles:
        handle.add_bytes(1, 1)
        handle.close(Outcome.OK)
    text = expose(metrics.snapshot())
    assert value(text, "istio_tcp_connections_opened_total") == 10
    assert value(text, "istio_tcp_connections_closed_total") == 10
    assert value(text, "istio_tcp_received_bytes_total") == 10
    assert (
        value(text, "istio_tcp_connections_opened_total", source_workload="overflow", reporter="source") == 7
    )
    assert value(text, "ztun_telemetry_label_sets_folded_total") >= 7
    assert len(metrics.snapshot()["tcp"]) == 4
    totals = Totals(limit=2)
    totals.update(metrics.snapshot())
    totals.retire("w1")
    assert value(expose(totals.snapshot()), "istio_tcp_connections_opened_total") == 10
    assert len(totals.snapshot()["tcp"]) == 3


HOSTILE = 'a"b\\c\nistio_tcp_connections_opened_total{x="y"} 99\n# EOF'


def test_a_hostile_label_value_cannot_forge_a_sample() -> None:
    metrics = Metrics("w1")
    metrics.open(label_set(HOSTILE))
    text = expose(metrics.snapshot())
    assert value(text, "istio_tcp_connections_opened_total") == 1
    assert value(text, "istio_tcp_connections_opened_total", source_workload=HOSTILE) == 1


def test_exposition_follows_openmetrics() -> None:
    control = Figures()
    control.add(families.XDS_TERMINATIONS, "Reconnect")
    control.put(families.BUILD, "ztunnel", "1.2.3", count=1)
    control.put(families.REDIRECT_PACKETS, "from_pod", "captured", count=12)
    text = expose(Totals().snapshot(control))
    lines = text.decode().splitlines()
    assert lines[-1] == "# EOF"
    assert "# TYPE istio_xds_connection_terminations counter" in lines
    assert 'istio_xds_connection_terminations_total{reason="Reconnect"} 1.0' in lines
    assert value(text, "istio_build", component="ztunnel", tag="1.2.3") == 1
    assert value(text, "ztun_redirect_packets_total", program="from_pod", reason="captured") == 12
    assert "istio_tcp" not in text.decode(), "a family without samples is left out"


@pytest.mark.parametrize("family", families.ALL, ids=lambda family: family.name)
def test_help_says_unstable_unless_the_metric_is_stable(family: families.Family) -> None:
    stable = {
        "istio_tcp_connections_opened", "istio_tcp_connections_closed", "istio_tcp_received_bytes",
        "istio_tcp_sent_bytes", "istio_build", "process_open_fds", "process_max_fds",
    }  # fmt: skip
    assert ("unstable" in family.help) is (family.name not in stable)


def test_wrong_label_count_is_a_defect_named() -> None:
    with pytest.raises(ValueError, match="istio_xds_message has labels"):
        Figures().add(families.XDS_MESSAGES)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], PLAIN),
        (["text/plain"], PLAIN),
        (["application/openmetrics-text"], OPENMETRICS),
        (["text/plain;q=0.5, application/openmetrics-text;version=1.0.0;q=0.9"], OPENMETRICS),
        (["*/*", "Application/OpenMetrics-Text; version=0.0.1"], OPENMETRICS),
        (["application/openmetrics-textual"], PLAIN),
    ],
)
def test_content_type_is_negotiated(accept: list[str], expected: str) -> None:
    assert content_type(accept) == expected


def test_both_formats_say_the_same() -> None:
    metrics = Metrics("w1")
    metrics.open(label_set("web")).add_bytes(to_server=100)
    metrics.figures.add(families.XDS_MESSAGES, "a")
    snapshot = metrics.snapshot()
    plain = expose(snapshot, PLAIN)
    assert b"# EOF" not in plain and b"# TYPE istio_xds_message_total counter\n" in plain
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in plain_families(plain.decode())
        for sample in family.samples
    }
    assert read == samples(expose(snapshot, OPENMETRICS)) and len(read) > 3


def test_a_successor_counts_on_from_the_last_counters_of_the_one_before() -> None:
    """Whatever of both is heard first: the sum never goes back, and nothing is in it twice."""
    totals, giver, taker = Totals(), Metrics("w1"), Metrics("w2")
    giver.open(label_set("web")).close(Outcome.OK)
    giver.figures.add(families.CONNECTIONS_FAILED, "inbound", "reset", count=3)
    giver.figures.put(families.UNREAD_BYTES, count=5)
    taker.figures.ask(lambda: [(families.CONNECTIONS_FAILED, ("inbound", "reset"), 2)])
    taker.open(label_set("web"))
    handle = taker.resume(label_set("web"), 10, 20)
    totals.update(through_the_channel(giver.snapshot()))
    totals.update(through_the_channel(taker.snapshot()))

    def counted() -> tuple[float, float, float]:
        text = expose(totals.snapshot())
        opened = value(text, "istio_tcp_connections_opened_total")
        failed = value(text, "ztun_connections_failed_total")
        return opened, value(text, "istio_tcp_connections_closed_total"), failed

    assert counted() == (2, 1, 5)
    handle.add_bytes(to_server=1)
    taker.inherit(through_the_channel(giver.snapshot()))
    taker.inherit(through_the_channel(giver.snapshot()))
    for tell in (
        lambda: totals.update(through_the_channel(taker.snapshot())),
        lambda: totals.update(through_the_channel(giver.snapshot())),
        lambda: totals.retire("w1"),
        lambda: totals.update(through_the_channel(taker.snapshot())),
    ):
        tell()
        assert counted() == (2, 1, 5)
    assert value(expose(totals.snapshot()), "istio_tcp_received_bytes_total") == 1
    last = Metrics("w3")
    last.inherit(through_the_channel(taker.snapshot()))
    totals.retire("w2")
    assert counted() == (2, 1, 5)
    totals.update(through_the_channel(last.snapshot()))
    assert counted() == (2, 1, 5)
    anew = Totals()
    anew.update(through_the_channel(last.snapshot()))
    text = expose(anew.snapshot())
    assert value(text, "istio_tcp_connections_opened_total") == 2, (
        "also for a control process that knew none of them"
    )
    assert not any(name == "ztun_unread_bytes" for name, _ in samples(text)), "gauges end with their process"


@pytest.mark.parametrize(
    "told",
    [
        {},
        [],
        {"process": "w", "tcp": [[["x"], [1, 2, 3, 4, 5]]], "figures": []},
        {"process": "w", "tcp": [[[], [1]]], "figures": []},
        {"process": "w", "tcp": 5, "figures": []},
        {"process": "w", "tcp": [], "figures": [["a"]]},
        {"process": "w", "tcp": [], "figures": [["a", [], "x"]]},
    ],
)
def test_what_is_no_last_word_is_refused_and_counts_nothing(told: Any) -> None:
    metrics = Metrics("w")
    before = metrics.snapshot()
    with pytest.raises(ValueError, match="no counters"):
        metrics.inherit(told)
    assert metrics.snapshot() == before
