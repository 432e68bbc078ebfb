"""The table of what becomes of each variable of ztunnel: honoured, without effect, or refused.

`docs/ZTUNNEL-DROP-IN.md` has these rows, a test holds it to them. Upstream: ztunnel `src/config.rs`, and the DaemonSet
of Istio's chart `ztunnel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.ztunnel import values
from agent.ztunnel.draft import META, Draft
from agent.ztunnel.values import Refused

Apply = Callable[[Draft, str, str], None]
"""Takes the draft, the variable's name and its value. Raises Refused."""
ROOT_CERT = "/var/run/secrets/istio/root-cert.pem"
TOKEN = "/var/run/secrets/tokens/istio-token"
ZDS_SOCKET = "/var/run/ztunnel/ztunnel.sock"
META_JSON = "ISTIO_METAJSON_"
KEEPALIVE = "every connection has 180 s, 180 s and nine probes"
TUNNELLED = "applications behind an application tunnel are dialled at their pod's own address"
SOCKS5 = "nobody listens at 127.0.0.1: clients name port 15080 of 169.254.77.1 or fd7a:7475:6e::1"
NO_DNS_PORT = "DNS is captured by programs of the kernel, which need no port for it"


@dataclass(frozen=True, slots=True)
class Row:
    """`name` may end in `*`. The texts are the columns of the document; empty: it does not happen.

    A row that is `hidden` has values which no message repeats.
    """

    name: str
    apply: Apply
    honoured: str = ""
    without_effect: str = ""
    refused: str = ""
    hidden: bool = False

    def line(self) -> str:
        """Its line of the document."""
        cells = (f"`{self.name}`", self.honoured, self.without_effect, self.refused)
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    def is_of(self, name: str) -> bool:
        return name == self.name or (self.name.endswith("*") and name.startswith(self.name[:-1]))


def same(text: str) -> str:
    return text


def option(name: str, becomes: str, parse: Callable[[str], str] = same, said: str = "") -> Row:
    def apply(draft: Draft, _: str, value: str) -> None:
        draft.set(becomes, parse(value))

    return Row(name, apply, said or f"`--{becomes.replace('_', '-')}`")


def idle(name: str, why: str) -> Row:
    return Row(name, lambda draft, given, _: draft.note(given, why), without_effect=why)


def fixed(name: str, value: str, honoured: str, *, idle: str = "", refused: str = "") -> Row:
    """A switch that stands where ztunnel's default is; the other position does nothing, or is refused."""
    other = "false" if value == "true" else "true"

    def apply(draft: Draft, given: str, text: str) -> None:
        if values.switch(text) is values.switch(value):
            return
        if refused:
            raise Refused(refused)
        draft.note(given, idle)

    return Row(
        name,
        apply,
        f"`{value}`: {honoured}" if honoured else f"`{value}`",
        f"`{other}`: {idle}" if idle else "",
        f"`{other}`: {refused}" if refused else "",
    )


def never(name: str, why: str, *, hidden: bool = False) -> Row:
    def apply(_: Draft, __: str, ___: str) -> None:
        raise Refused(why)

    return Row(name, apply, refused=why, hidden=hidden)


def _mode(_: Draft, __: str, value: str) -> None:
    if value != "shared":
        raise Refused(DEDICATED)


def _cluster(draft: Draft, name: str, value: str) -> None:
    draft.set("cluster_id", draft.environ.get(f"{META}CLUSTER_ID", value))


def _token(draft: Draft, _: str, value: str) -> None:
    if not draft.around.exists(value):
        raise Refused(LITERAL_TOKEN)
    draft.set("token_file", value)


def _metadata(draft: Draft, name: str, value: str) -> None:
    draft.metadata[name.removeprefix(META)] = value


def _metadata_json(draft: Draft, name: str, value: str) -> None:
    draft.metadata[name.removeprefix(META_JSON)] = values.json_object(value)


def _dns_capture(draft: Draft, name: str, value: str) -> None:
    """Any text that is not `true` means that it is off, as to ztunnel."""
    _metadata(draft, name, value)
    draft.set("dns_capture", "true" if value.lower() == "true" else "false")


def _dns_address(draft: Draft, name: str, value: str) -> None:
    _metadata(draft, name, value)
    draft.note(name, NO_DNS_PORT)


def _socks5(draft: Draft, name: str, value: str) -> None:
    is_on = values.switch(value)
    draft.set("socks5", "true" if is_on else "false")
    if is_on:
        draft.note(name, SOCKS5)


def _grace(draft: Draft, _: str, value: str) -> None:
    deadline = values.grace(value)
    if "CONNECTION_TERMINATION_DEADLINE" not in draft.environ:
        draft.set("drain_deadline_s", deadline)


def set_workers(draft: Draft, _: str = "", __: str = "") -> None:
    given = draft.environ.get
    limits = [
        given(f"ZTUNNEL_{name}") for name in ("CPU_LIMIT", "RESOURCE_CPU_LIMIT", "RESOURCE_CPU_REQUEST")
    ]
    machine, limit, request = (values.cores(text) if text else None for text in limits)
    count = values.workers(
        given("ZTUNNEL_WORKER_THREADS"),
        draft.concurrency,
        limit,
        request,
        machine or draft.around.cores,
    )
    draft.set("workers", str(count))


def _log_level(draft: Draft, name: str, value: str) -> None:
    levels, targets = values.log_level(value)
    draft.set("log_level", levels)
    if targets:
        draft.note(name, f"{', '.join(targets)}: no module of this agent is called so")


def _compliance(draft: Draft, _: str, value: str) -> None:
    if value and value != "pqc":
        raise Refused(OTHER_COMPLIANCE)
    draft.set("compliance_policy", value or "off")


def _ipv6(draft: Draft, _: str, value: str) -> None:
    draft.has_ipv6 = values.switch(value)


DEDICATED = "there is no dedicated proxy here: enrol the one pod by `ztun enroll`"
LITERAL_TOKEN = "a token itself is not taken, as everybody sees the environment: name the file it is in"
ONE_NAME = (
    "one name is looked for, the host of the address: set ZTUN_SERVER_NAME to the name in the certificate"
)
HEADERS = "no headers of one's own are sent: have a proxy before the control plane add them"
NO_LOCAL = "an agent takes its mesh from a control plane: serve the file by `ztun control-plane --ztunnel-config FILE`"
OTHER_COMPLIANCE = "no such policy is known: `pqc`, or leave it out"
IN_WORKERS = "`--workers`, by upstream's rule; each is a process"

ROWS: tuple[Row, ...] = (
    Row("PROXY_MODE", _mode, "`shared`", refused=f"`dedicated`: {DEDICATED}"),
    idle("PROXY_WORKLOAD_INFO", "it is for `PROXY_MODE=dedicated`"),
    fixed(
        "ENABLE_PROXY",
        "true",
        "the proxy is what this is",
        refused="without the proxy nothing is left to run",
    ),
    option("NODE_NAME", "node"),
    option("NETWORK", "network"),
    Row("CLUSTER_ID", _cluster, "`--cluster-id`, unless `ISTIO_META_CLUSTER_ID` says it"),
    option("ISTIO_META_CLUSTER_ID", "cluster_id"),
    option("CLUSTER_DOMAIN", "cluster_domain"),
    idle("TRUST_DOMAIN", "identities are as the control plane says them"),
    option("POD_NAME", "pod_name"),
    option("POD_NAMESPACE", "pod_namespace"),
    Row("SERVICE_ACCOUNT", _metadata, "told to the control plane (`--node-metadata`)"),
    option("INSTANCE_IP", "instance_ip"),
    option("XDS_ADDRESS", "xds_address", values.address, "`--xds-address`, with or without `https://`"),
    option("CA_ADDRESS", "ca_address", values.address, "`--ca-address`, with or without `https://`"),
    option("XDS_ROOT_CA", "root_cert", said="`--root-cert`: a path, `SYSTEM`, or PEM itself"),
    option("CA_ROOT_CA", "ca_root_cert", said="`--ca-root-cert`: a path, `SYSTEM`, or PEM itself"),
    never("ALT_XDS_HOSTNAME", ONE_NAME),
    never("ALT_CA_HOSTNAME", ONE_NAME),
    Row(
        "AUTH_TOKEN", _token, "`--token-file`: a path", refused=f"anything else: {LITERAL_TOKEN}", hidden=True
    ),
    never("XDS_HEADER_*", HEADERS, hidden=True),
    never("CA_HEADER_*", HEADERS, hidden=True),
    option("XDS_ON_DEMAND", "on_demand", values.boolean),
    never("LOCAL_XDS_PATH", NO_LOCAL),
    never("LOCAL_XDS", NO_LOCAL),
    fixed("FAKE_CA", "false", "", refused="certificates are a CA's: name one by CA_ADDRESS"),
    option("SECRET_TTL", "secret_ttl_s", values.seconds),
    option("PREFERED_SERVICE_NAMESPACE", "dns_preferred_namespace"),
    Row(
        "ISTIO_META_DNS_CAPTURE",
        _dns_capture,
        "`--dns-capture`, off without it; told to the control plane as well",
    ),
    Row("ISTIO_META_DNS_PROXY_ADDR", _dns_address, "told to the control plane", NO_DNS_PORT),
    Row("ISTIO_META_*", _metadata, "told to the control plane (`--node-metadata`)"),
    Row(
        "ISTIO_METAJSON_*",
        _metadata_json,
        "told to the control plane (`--node-metadata`)",
        refused="what is no JSON",
    ),
    option("INPOD_UDS", "zds_socket"),
    idle("INPOD_ENABLED", "neither does ztunnel read it"),
    idle("INPOD_PORT_REUSE", "listeners are not in the pods"),
    idle("PACKET_MARK", "packets are not marked"),
    fixed(
        "ENABLE_ORIG_SRC",
        "true",
        "applications see the client's address",
        refused="applications always see the client's address: leave it out",
    ),
    Row("IPV6_ENABLED", _ipv6, "`false`: metrics and readiness listen on 0.0.0.0"),
    Row("UNSTABLE_ENABLE_SOCKS5", _socks5, "`--socks5`", f"`true`: {SOCKS5}"),
    fixed(
        "LOCALHOST_APP_TUNNEL",
        "false",
        TUNNELLED,
        idle=f"{TUNNELLED}, and have to listen there",
    ),
    fixed("ENABLE_RESPONSE_BAGGAGE", "true", "answers carry it", idle="answers carry it all the same"),
    option("HTTP2_STREAM_WINDOW_SIZE", "stream_window_bytes"),
    option("HTTP2_CONNECTION_WINDOW_SIZE", "connection_window_bytes"),
    option("HTTP2_FRAME_SIZE", "frame_bytes"),
    option("POOL_MAX_STREAMS_PER_CONNECTION", "pool_max_streams"),
    option("POOL_UNUSED_RELEASE_TIMEOUT", "pool_idle_s", values.seconds),
    fixed("KEEPALIVE_ENABLED", "true", KEEPALIVE, idle=KEEPALIVE),
    idle("KEEPALIVE_TIME", KEEPALIVE),
    idle("KEEPALIVE_INTERVAL", KEEPALIVE),
    idle("KEEPALIVE_RETRIES", KEEPALIVE),
    fixed("USER_TIMEOUT_ENABLED", "false", "", idle="keepalive finds ends that are gone"),
    option("CONNECTION_TERMINATION_DEADLINE", "drain_deadline_s", values.seconds),
    Row(
        "TERMINATION_GRACE_PERIOD_SECONDS",
        _grace,
        "`--drain-deadline-s`, 5 s less (1 s up to 10), unless `CONNECTION_TERMINATION_DEADLINE` says it",
    ),
    Row("ZTUNNEL_WORKER_THREADS", set_workers, IN_WORKERS),
    Row("ZTUNNEL_CPU_LIMIT", set_workers, IN_WORKERS),
    Row("ZTUNNEL_RESOURCE_CPU_LIMIT", set_workers, IN_WORKERS),
    Row("ZTUNNEL_RESOURCE_CPU_REQUEST", set_workers, IN_WORKERS),
    option("CRL_PATH", "crl_path"),
    idle("AUTHZ_POLICY_INFO_LOGGING", "the access log names the policy that refused"),
    Row(
        "COMPLIANCE_POLICY",
        _compliance,
        "`pqc`: `--compliance-policy`",
        refused=f"anything else: {OTHER_COMPLIANCE}",
    ),
    fixed("TLS12_ENABLED", "false", "TLS 1.3 alone", refused="only TLS 1.3 is spoken here: leave it out"),
    Row(
        "RUST_LOG",
        _log_level,
        "`--log-level`, of single targets and the access log too",
        "targets that only ztunnel has",
        "what is no level",
    ),
    option("LOG_FORMAT", "log_format"),
    idle("RUST_BACKTRACE", "there is no Rust here"),
)
