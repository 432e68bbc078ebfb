"""The TCP label set: names, order, `unknown`, precedence, byte directions (docs/WIRE.md#metrics)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.address import NamespacedHostname, SocketAddress
from agent.model.connection import Direction
from agent.model.identity import Identity
from agent.model.outcome import Outcome
from agent.model.service import Service
from agent.model.workload import Locality, Workload
from agent.telemetry.record import (
    LABEL_NAMES,
    Attributes,
    LabelMemo,
    Opened,
    Record,
    label_names,
    labels,
    with_flag,
)

CLIENT = Workload(
    uid="c", name="client-1", namespace="shop", workload_name="client", canonical_name="cli",
    canonical_revision="v1", service_account="buyer",
)  # fmt: skip
SERVER = Workload(
    uid="s", name="server-1", namespace="store", workload_name="server", canonical_name="srv",
    canonical_revision="v2", service_account="seller", locality=Locality("r1", "z1"),
)  # fmt: skip
SERVICE = Service(name="server", namespace="store", hostname="server.store.svc.cluster.local")
A, B = SocketAddress.parse("10.0.0.1:40000"), SocketAddress.parse("10.0.0.2:15008")
FULL = Opened(
    Direction.OUTBOUND, A, B, CLIENT, SERVER, CLIENT.identity, SERVER.identity,
    is_mutual_tls=True, authority="10.0.0.2:80", service=SERVICE,
)  # fmt: skip


def as_dict(opened: Opened, flag: str = "-") -> dict[str, str]:
    values = labels(opened, flag)
    return dict(zip(label_names(values), values, strict=True))


def test_names_come_in_ztunnels_order() -> None:
    assert LABEL_NAMES == (
        "reporter", "source_workload", "source_canonical_service", "source_canonical_revision",
        "source_workload_namespace", "source_principal", "source_app", "source_version", "source_cluster",
        "destination_service", "destination_service_namespace", "destination_service_name",
        "destination_workload", "destination_canonical_service", "destination_canonical_revision",
        "destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
        "destination_cluster", "request_protocol", "response_flags", "connection_security_policy",
    )  # fmt: skip
    assert label_names(labels(FULL))[len(LABEL_NAMES) :] == (
        "source_region", "source_zone", "destination_region", "destination_zone",
    )  # fmt: skip


def test_known_ends_fill_every_label() -> None:
    assert labels(FULL) == (
        "source",
        "client", "cli", "v1", "shop", "spiffe://cluster.local/ns/shop/sa/buyer", "cli", "v1", "Kubernetes",
        "server.store.svc.cluster.local", "store", "server",
        "server", "srv", "v2", "store", "spiffe://cluster.local/ns/store/sa/seller", "srv", "v2", "Kubernetes",
        "tcp", "-", "mutual_tls",
        "unknown", "unknown", "r1", "z1",
    )  # fmt: skip


def test_nothing_known_is_unknown_and_has_no_locality() -> None:
    values = labels(Opened(Direction.INBOUND, A, B))
    assert len(values) == len(LABEL_NAMES)
    assert values[0] == "destination"
    assert set(values[1:20]) == {"unknown"}
    assert values[20:] == ("tcp", "-", "unknown")


def test_plaintext_has_no_source_principal_but_the_destinations_expected_one() -> None:
    plain = as_dict(Opened(Direction.INBOUND, A, B, CLIENT, SERVER))
    assert plain["source_principal"] == "unknown"
    assert plain["destination_principal"] == "spiffe://cluster.local/ns/store/sa/seller"
    assert plain["connection_security_policy"] == "unknown"


def test_an_identity_without_tls_is_not_a_source_principal() -> None:
    handed_over = as_dict(Opened(Direction.INBOUND, A, B, CLIENT, SERVER, source_identity=CLIENT.identity))
    assert handed_over["source_principal"] == "unknown"


CLAIMS = Attributes(workload="claimed", canonical_service="svc", namespace="far", region="r9")


@pytest.mark.parametrize(
    ("opened", "label", "value"),
    [
        (Opened(Direction.INBOUND, A, B, CLIENT, source_claims=CLAIMS), "source_workload", "client"),
        (Opened(Direction.INBOUND, A, B, None, source_claims=CLAIMS), "source_workload", "claimed"),
        (Opened(Direction.INBOUND, A, B, None, source_claims=CLAIMS), "source_app", "unknown"),
        (Opened(Direction.INBOUND, A, B, None, source_claims=CLAIMS), "source_region", "r9"),
        (
            Opened(Direction.OUTBOUND, A, B, CLIENT, SERVER, destination_claims=CLAIMS),
            "destination_workload",
            "claimed",
        ),
    ],
)  # fmt: skip
def test_precedence_of_mesh_state_and_claims(opened: Opened, label: str, value: str) -> None:
    assert as_dict(opened)[label] == value


def test_claims_never_become_a_principal() -> None:
    claimed = Opened(Direction.INBOUND, A, B, source_claims=CLAIMS, is_mutual_tls=True)
    assert as_dict(claimed)["source_principal"] == "unknown"


def test_proven_destination_wins_over_the_expected_one() -> None:
    proven = Identity("far.example", "store", "seller")
    through_gateway = Opened(
        Direction.OUTBOUND, A, B, CLIENT, SERVER, CLIENT.identity, proven, is_mutual_tls=True
    )
    assert as_dict(through_gateway)["destination_principal"] == "spiffe://far.example/ns/store/sa/seller"


def test_service_known_by_key_only() -> None:
    opened = Opened(
        Direction.INBOUND, A, B, service=NamespacedHostname("store", "server.store.svc.cluster.local")
    )
    got = as_dict(opened)
    assert (got["destination_service_namespace"], got["destination_service_name"]) == ("store", "server")


@pytest.mark.parametrize(
    "other",
    [
        FULL._replace(direction=Direction.INBOUND),
        FULL._replace(source=replace(CLIENT, canonical_revision="v9")),
        FULL._replace(destination=None),
        FULL._replace(destination_identity=Identity("far.example", "store", "seller")),
        FULL._replace(source_identity=None),
        FULL._replace(is_mutual_tls=False),
        FULL._replace(service=None),
        FULL._replace(destination_claims=CLAIMS),
        FULL._replace(source=None, source_claims=CLAIMS),
    ],
)
def test_memo_answers_what_labels_answers(other: Opened) -> None:
    memo = LabelMemo()
    for opened in (FULL, other, FULL, other):
        assert memo.open(opened).label_set == labels(opened)
    assert memo.open(FULL).label_set != memo.open(other).label_set


def between(number: int) -> Opened:
    """A connection to a workload of its own."""
    return Opened(Direction.INBOUND, A, B, Workload(f"u{number}", "n", "ns", workload_name=f"w{number}"))


def test_memo_is_bounded_and_does_not_mistake_a_new_object_for_a_gone_one() -> None:
    memo = LabelMemo()
    for number in range(3 * LabelMemo.LIMIT):
        labelled = memo.open(between(number))
        assert labelled.label_set[1] == f"w{number}"
        memo.close(labelled)
        assert len(memo) <= LabelMemo.LIMIT + 1


def test_memo_knows_however_many_pairs_are_open_and_forgets_them_when_they_are_not() -> None:
    memo = LabelMemo()
    pairs = [between(number) for number in range(2 * LabelMemo.LIMIT)]
    first = [memo.open(each) for each in pairs]
    again = [memo.open(each) for each in pairs]
    assert all(one is two for one, two in zip(first, again, strict=True))
    for labelled in again[1:] + first[1:]:
        memo.close(labelled)
    assert len(memo) <= LabelMemo.LIMIT + 1
    assert memo.open(pairs[0]) is first[0], "it is still open"


def test_flag_is_replaced_and_nothing_else() -> None:
    before, after = labels(FULL), with_flag(labels(FULL), "DENY")
    assert [name for name, x, y in zip(label_names(before), before, after, strict=True) if x != y] == [
        "response_flags"
    ]
    assert with_flag(before, "-") is before


@pytest.mark.parametrize(
    ("direction", "expected"), [(Direction.OUTBOUND, (7, 5)), (Direction.INBOUND, (5, 7))]
)
def test_log_bytes_are_seen_from_the_reporter(direction: Direction, expected: tuple[int, int]) -> None:
    record = Record(Opened(direction, A, B), Outcome.OK, to_server_bytes=7, to_client_bytes=5)
    assert record.reported_bytes == expected


@pytest.mark.parametrize(
    ("outcome", "is_failed"),
    [
        (Outcome.OK, False),
        (Outcome.DRAINED, False),
        (Outcome.POLICY_DENIED, True),
        (Outcome.TLS_FAILED, True),
    ],
)
def test_failed_is_any_flag_but_none(outcome: Outcome, is_failed: bool) -> None:
    assert Record(FULL, outcome).is_failed is is_failed
