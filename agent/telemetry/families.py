"""Every metric by name: its kind, labels and help text. The only place where metric names are spelled.

Names and labels of `istio_*`, `workload_manager_*` and `process_*` are ztunnel's (docs/WIRE.md#metrics),
`ztun_*` are our own. The help text of a metric that is not stable says "unstable". Values live
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from agent.telemetry.record import LABEL_NAMES


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    """Its samples have one label more than it names: BUCKET, with the bound or SUM in it."""


BUCKET, SUM = "le", "sum"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. A counter's `name` is without `_total`; the exposition adds it."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    is_stable: bool = field(default=False, kw_only=True)

    @property
    def sample_labels(self) -> tuple[str, ...]:
        return (*self.labels, BUCKET) if self.kind is Kind.HISTOGRAM else self.labels

    @property
    def help(self) -> str:
        return self.text if self.is_stable else f"{self.text} (unstable)"


def bucket(bound: float) -> str:
    """As the label says it."""
    return "+Inf" if bound == float("inf") else repr(float(bound))


def _counter(name: str, text: str, *labels: str, is_stable: bool = False) -> Family:
    return Family(name, Kind.COUNTER, text, labels, is_stable=is_stable)


def _gauge(name: str, text: str, *labels: str, is_stable: bool = False) -> Family:
    return Family(name, Kind.GAUGE, text, labels, is_stable=is_stable)


TCP_OPENED = _counter("istio_tcp_connections_opened", "TCP connections opened", *LABEL_NAMES, is_stable=True)
TCP_CLOSED = _counter("istio_tcp_connections_closed", "TCP connections closed", *LABEL_NAMES, is_stable=True)
TCP_RECEIVED = _counter(
    "istio_tcp_received_bytes", "Bytes from client to server", *LABEL_NAMES, is_stable=True
)
TCP_SENT = _counter("istio_tcp_sent_bytes", "Bytes from server to client", *LABEL_NAMES, is_stable=True)
TCP_FAILED = _counter("istio_tcp_connections_failed", "TCP connections that failed", *LABEL_NAMES)
TCP_OPEN = _gauge("istio_tcp_sockets_open", "TCP connections open now", "reporter")

ON_DEMAND_DNS = _counter(
    "istio_on_demand_dns",
    "Connections to workloads known by their host name alone",
    *(name for name in LABEL_NAMES if name.startswith("source_")),
    "hostname",
)

HOST_NAMES = _gauge(
    "ztun_host_names", "Names of workloads without an address, by what is known of them", "state"
)
HOST_NAME_ADDRESSES_LEFT_OUT = _gauge(
    "ztun_host_name_addresses_left_out",
    "Addresses that host names have beside those that are dialled: too many",
)

_DNS_LABELS = (
    "request_query_type",
    "request_protocol",
    "source_canonical_service",
    "source_canonical_revision",
)
DNS_REQUESTS = _counter("istio_dns_requests", "Queries of pods whose DNS is captured", *_DNS_LABELS)
DNS_UPSTREAM_REQUESTS = _counter(
    "istio_dns_upstream_requests", "Queries that were forwarded to the pod's own name server", *_DNS_LABELS
)
DNS_UPSTREAM_FAILURES = _counter(
    "istio_dns_upstream_failures", "Forwarded queries that got no answer", *_DNS_LABELS
)
DNS_DURATION = Family(
    "istio_dns_upstream_request_duration_seconds",
    Kind.HISTOGRAM,
    "How long name servers took to answer forwarded queries",
    _DNS_LABELS,
)
DNS_DURATION_BUCKETS_S = (0.0005, 0.001, 0.01, 0.1, 1.0, 5.0)
DNS_REFUSED = _counter("ztun_dns_refused", "Queries of pods that were refused, by the reason", "reason")
DNS_CACHED = _counter("ztun_dns_cached", "Queries that an earlier answer of the name server was given to")
DNS_UNDER_WAY = _gauge("ztun_dns_under_way", "Forwarded queries that wait for their answer now")
DNS_LOST = _counter("ztun_dns_lost", "Queries of pods that had no room in the queue of a worker")
DNS_UNSENT = _counter("ztun_dns_unsent", "Answers to pods that the kernel did not take")

CRL_REJECTIONS = _counter(
    "istio_crl_policy_rejections",
    "Handshakes refused and connections ended because a certificate of the peer was revoked",
    "reporter",
)
CRL_USABLE = _gauge("ztun_crl_usable", "1 while the file of revocation lists can be used")
CRL_LISTS = _gauge("ztun_crl_lists", "Revocation lists in force")
CRL_EXPIRED = _gauge("ztun_crl_lists_expired", "Revocation lists in force that are out of date")
CRL_UNSIGNED = _gauge(
    "ztun_crl_lists_unsigned", "Revocation lists in force that no authority known to this node has signed"
)
CRL_SERIALS = _gauge("ztun_crl_revoked_certificates", "Certificates on the revocation lists in force")

XDS_TERMINATIONS = _counter("istio_xds_connection_terminations", "Discovery streams that ended", "reason")
XDS_MESSAGES = _counter("istio_xds_message", "Discovery responses received", "url")
XDS_MESSAGE_BYTES = _counter("istio_xds_message_bytes", "Bytes of resources received", "url")
BUILD = _gauge("istio_build", "Version of this agent", "component", "tag", is_stable=True)

PODS_ACTIVE = _gauge("workload_manager_active_proxy_count", "Pods enrolled now")
PODS_PENDING = _gauge("workload_manager_pending_proxy_count", "Pods waiting to be enrolled")
PODS_STARTED = _counter("workload_manager_proxies_started", "Pods enrolled since start")
PODS_STOPPED = _counter("workload_manager_proxies_stopped", "Pods un-enrolled since start")

OPEN_FDS = _gauge("process_open_fds", "File descriptors open in the control process", is_stable=True)
MAX_FDS = _gauge("process_max_fds", "Limit of file descriptors of the control process", is_stable=True)

REDIRECT_PACKETS = _counter(
    "ztun_redirect_packets", "Packets by the exit they took in the kernel programs", "program", "reason"
)
PREFILTER_DENIED = _counter(
    "ztun_prefilter_denied",
    "SYNs that programs of the kernel denied, by the reason that the access log has; those sent again count too",
    "reason",
)
UNGUARDED_PACKETS = _counter(
    "ztun_unguarded_packets",
    "At most so many packets of captured pods, and to them, passed while a program of ours was off, or behind another",
    "direction",
)
DRIFT = _gauge(
    "ztun_drift", "Differences between what is desired and what the kernel has, at the last look", "part"
)
REPAIRS = _counter("ztun_drift_repaired", "Differences that were found and made good again", "part")
BYPASSES = _gauge(
    "ztun_bypasses", "Openings by `ztun bypass` that last now, of the node and of pods", "scope"
)
BYPASS_LEFT = _gauge("ztun_bypass_left_seconds", "How long the longest of them lasts yet", "scope")
CONNECTIONS_FAILED = _counter(
    "ztun_connections_failed",
    "Connections that failed or were refused, those without a destination too, by the reason in the access log",
    "direction",
    "reason",
)
LABEL_SETS_FOLDED = _counter(
    "ztun_telemetry_label_sets_folded", "Connections counted under the overflow labels: too many label sets"
)
LOG_LINES_LOST = _counter(
    "ztun_log_lines_lost", "Lines of the process log or the access log that nobody took in time", "log"
)

PLANE_SERVING = _gauge("ztun_control_plane_serving", "Whether the embedded control plane serves a mesh")
PLANE_RESOURCES = _gauge("ztun_control_plane_resources", "Addresses and policies that are served", "type")
PLANE_REFUSED = _gauge(
    "ztun_control_plane_refused_documents",
    "Documents of the manifests that cannot be used, by what holds instead",
    "effect",
)
PLANE_WITHOUT_EFFECT = _gauge(
    "ztun_control_plane_without_effect", "Things that the manifests ask for and nobody does"
)
PLANE_WARNINGS = _gauge("ztun_control_plane_warnings", "Other remarks about the manifests")
PLANE_STREAMS = _gauge("ztun_control_plane_streams", "Discovery streams of a node", "node")
PLANE_NACKS = _gauge("ztun_control_plane_nacks", "Resources that a node could not take", "node", "url")

ZDS_CONNECTED = _gauge("ztun_zds_connected", "1 while istio-cni is connected, where pods are taken from it")
ZDS_SNAPSHOT = _gauge("ztun_zds_snapshot", "1 once istio-cni has named all pods in this connection")
ZDS_PODS = _gauge("ztun_zds_pods", "Pods that istio-cni has named")
ZDS_REQUESTS = _counter("ztun_zds_requests", "What istio-cni asked for, by what came of it", "kind", "result")

AGENT_READY = _gauge("ztun_agent_ready", "1 while this agent is READY, 0 while it is DEGRADED")
DEGRADED_REASONS = _gauge(
    "ztun_agent_degraded_reasons", "Reasons for which this agent is DEGRADED, by what they are about", "topic"
)
POD_BROKEN = _gauge(
    "ztun_pod_broken", "1 for each pod that is not served, with the first broken link of its chain",
    "namespace", "pod", "link",
)  # fmt: skip
PROOF_AGE = _gauge("ztun_proof_age_seconds", "Age of the last complete round of proofs")

CERTIFICATES = _gauge(
    "ztun_certificates", "Identities in use on this node, by the state of their certificate", "state"
)
CERTIFICATE_EXPIRY = _gauge(
    "ztun_certificate_expiry_timestamp_seconds", "When the certificate of an identity in use ends", "identity"
)
XDS_CONNECTED = _gauge("ztun_xds_connected", "1 while the discovery stream is up")
XDS_SYNCED = _gauge("ztun_xds_synced", "1 once the first complete state has been there")
XDS_CONNECTED_SINCE = _gauge(
    "ztun_xds_connected_since_timestamp_seconds",
    "Since when the discovery stream is up; absent while it is not",
)
XDS_REFUSED = _gauge("ztun_xds_resources_refused", "Resources that this agent could not use", "url")
NOT_IN_FORCE = _gauge(
    "ztun_policies_not_in_force",
    "What the control plane says of enrolled pods that does not apply, or of another pod with their address, by why",
    "kind",
)

WORKERS = _gauge("ztun_workers", "Worker processes: alive, wanted, and retiring ones beside them", "state")
WORKER_RESTARTS = _counter(
    "ztun_worker_restarts", "Workers that ended without being asked and were started again"
)
HANDED_OVER = _counter(
    "ztun_handed_over", "What workers that retire have given to their successors, by what it is", "kind"
)
NOT_HANDED_OVER = _counter(
    "ztun_not_handed_over", "What had to stay with a worker that retires, and drained, by why", "reason"
)
HAND_OVER_PAUSE = Family(
    "ztun_hand_over_pause_seconds",
    Kind.HISTOGRAM,
    "For how long nobody read or wrote what was handed over, each thing by itself",
)
HAND_OVER_PAUSE_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.25, 1.0)
HANDSHAKE_FAILURES = _counter(
    "ztun_handshake_failures",
    "TLS handshakes of HBONE that failed, by the end that ztun was and why",
    "side",
    "reason",
)
LIMITED = _counter(
    "ztun_limited",
    "Connections refused for a limit of their pod, and waits of those that carry too much for one, by the limit",
    "limit",
    "namespace",
    "workload",
)
HANDSHAKES_OPEN = _gauge("ztun_handshakes_open", "Inbound TLS handshakes of HBONE that are not done")
ACCEPT_PAUSES = _counter(
    "ztun_accept_pauses",
    "Times that a listener was left alone for a tenth of a second: no descriptor was left",
)
LINES_SPARED = _counter(
    "ztun_refused_lines_spared",
    "Refused connections that have no line of their own in the access log: too many",
)
SYNS_HELD = _gauge(
    "ztun_held_syns", "SYNs that wait until their destination has answered (--honest-connect)", "direction"
)
SYNS = _counter("ztun_held_syns_ended", "SYNs that waited, by what became of them", "direction", "fate")
SYNS_TOO_OLD = _counter(
    "ztun_held_syns_too_old", "SYNs that a worker found when their clients had sent others long since"
)
HBONE_CONNECTIONS = _gauge(
    "ztun_hbone_connections", "HBONE connections open now, by the end that ztun is", "side"
)
HBONE_STREAMS = _gauge(
    "ztun_hbone_streams", "Tunnels in HBONE connections now, waiting ones included", "side"
)
HBONE_WAITING = _gauge(
    "ztun_hbone_streams_waiting", "Tunnels that may not send now: the other end does not read", "side"
)
HBONE_CROWDED = _gauge(
    "ztun_hbone_connections_crowded",
    "HBONE connections of whose window more than half is taken at the other end: they get no new tunnels",
    "side",
)
UNREAD_BYTES = _gauge("ztun_unread_bytes", "Bytes that wait for applications and peers that do not read")
UNREAD_RESETS = _counter(
    "ztun_unread_resets", "Connections reset because applications left more unread than a worker may hold"
)

ALL: tuple[Family, ...] = tuple(each for each in list(globals().values()) if isinstance(each, Family))
BY_NAME = {family.name: family for family in ALL}
