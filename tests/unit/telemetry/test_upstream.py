"""ztunnel's metrics beside ours: names, kinds, labels and what a label can say; and which are not here, and why not."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from agent.model.outcome import Outcome
from agent.telemetry.families import BY_NAME, Kind
from agent.telemetry.record import LABEL_NAMES, LOCALITY_NAMES
from agent.telemetry.xds_figures import END_REASONS

TCP = """reporter source_workload source_canonical_service source_canonical_revision source_workload_namespace
source_principal source_app source_version source_cluster destination_service destination_service_namespace
destination_service_name destination_workload destination_canonical_service destination_canonical_revision
destination_workload_namespace destination_principal destination_app destination_version destination_cluster
request_protocol response_flags connection_security_policy"""
SOURCE = """source_workload source_canonical_service source_canonical_revision source_workload_namespace
source_principal source_app source_version source_cluster"""
NO_TOKIO = "figures of the runtime that ztunnel is written for"
ALL_TRACKED = "every connection is judged again when lists change"


class Row(NamedTuple):
    """One metric of ztunnel. `missing`: why it is not here."""

    name: str
    labels: str = ""
    is_stable: bool = False
    missing: str = ""

    @property
    def kind(self) -> Kind:
        if self.name.endswith("_duration_seconds"):
            return Kind.HISTOGRAM
        return Kind.COUNTER if self.name.endswith("_total") else Kind.GAUGE


DNS = "request_query_type request_protocol source_canonical_service source_canonical_revision"
UPSTREAM = (
    Row("istio_tcp_connections_opened_total", TCP, is_stable=True),
    Row("istio_tcp_connections_closed_total", TCP, is_stable=True),
    Row("istio_tcp_received_bytes_total", TCP, is_stable=True),
    Row("istio_tcp_sent_bytes_total", TCP, is_stable=True),
    Row("istio_tcp_connections_failed_total", TCP),
    Row("istio_tcp_sockets_open", "reporter"),
    Row("istio_on_demand_dns_total", f"{SOURCE} hostname"),
    Row("istio_crl_policy_rejections_total", "reporter"),
    Row("istio_crl_untracked_connections_total", "reporter", missing=ALL_TRACKED),
    Row("istio_dns_requests_total", DNS),
    Row("istio_dns_upstream_requests_total", DNS),
    Row("istio_dns_upstream_failures_total", DNS),
    Row("istio_dns_upstream_request_duration_seconds", DNS),
    Row("istio_xds_connection_terminations_total", "reason"),
    Row("istio_xds_message_total", "url"),
    Row("istio_xds_message_bytes_total", "url"),
    Row("istio_build", "component tag", is_stable=True),
    Row("workload_manager_active_proxy_count"),
    Row("workload_manager_pending_proxy_count"),
    Row("workload_manager_proxies_started_total"),
    Row("workload_manager_proxies_stopped_total"),
    Row("process_open_fds", is_stable=True),
    Row("process_max_fds", is_stable=True),
    Row("tokio_num_workers", missing=NO_TOKIO),
    Row("tokio_global_queue_depth", missing=NO_TOKIO),
    Row("tokio_num_alive_tasks", missing=NO_TOKIO),
    Row("tokio_worker_total_busy_duration_seconds_total", "worker", missing=NO_TOKIO),
    Row("tokio_worker_park_count_total", "worker", missing=NO_TOKIO),
    Row("tokio_worker_park_unpark_count_total", "worker", missing=NO_TOKIO),
)
HERE = [row for row in UPSTREAM if not row.missing]


@pytest.mark.parametrize("row", HERE, ids=lambda row: row.name)
def test_ztunnels_metric_is_here_with_its_labels(row: Row) -> None:
    family = BY_NAME[row.name.removesuffix("_total")]
    assert (family.kind, family.labels) == (row.kind, tuple(row.labels.split()))
    assert family.is_stable == row.is_stable
    assert ("unstable" in family.help) != row.is_stable, "ztunnel says so of all that may change"


def test_what_is_missing_is_not_here_by_another_meaning() -> None:
    missing = [row.name.removesuffix("_total") for row in UPSTREAM if row.missing]
    assert not BY_NAME.keys() & set(missing), "now that it is here, its row has no reason to be missing"


def test_nothing_else_uses_ztunnels_prefixes() -> None:
    """A dashboard that sums over them would count it."""
    known = {row.name.removesuffix("_total") for row in HERE}
    others = [
        name for name in BY_NAME if name.startswith(("istio_", "workload_manager_", "process_", "tokio_"))
    ]
    assert set(others) <= known


def test_the_labels_of_a_connection_are_in_ztunnels_order() -> None:
    assert tuple(TCP.split()) == LABEL_NAMES
    assert LOCALITY_NAMES == ("source_region", "source_zone", "destination_region", "destination_zone")


def test_response_flags_are_ztunnels() -> None:
    theirs = {
        "-",
        "DENY",
        "CONNECT",
        "TLS_FAILURE",
        "H2_HANDSHAKE_FAILURE",
        "NETWORK_POLICY",
        "IDENTITY_ERROR",
    }
    assert {outcome.flag for outcome in Outcome} <= theirs | {"CERT_REVOKED", "LIMIT"}
    assert {outcome.flag for outcome in Outcome} >= theirs


def test_reasons_for_the_end_of_a_stream_are_ztunnels() -> None:
    """All but `Reconnect`: nobody here asks for a stream to be made anew."""
    assert set(END_REASONS) == {"ConnectionError", "Error", "Reconnect", "Complete"} - {"Reconnect"}
