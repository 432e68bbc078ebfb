"""What becomes of every variable of a stock ztunnel: a case for each cell of the table, and for what is in none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from agent import config
from agent.ztunnel.draft import Surroundings
from agent.ztunnel.rows import ROOT_CERT, ROWS, TOKEN
from agent.ztunnel.translate import CannotServe, Translation, row_of, translate

ROOT = Path(__file__).parents[3]
STOCK = ROOT / "tests" / "vectors" / "ztunnel" / "daemonset.yaml"
FIELDS = {
    "metadata.name": "ztunnel-x",
    "metadata.namespace": "istio-system",
    "spec.nodeName": "n1",
    "spec.serviceAccountName": "ztunnel",
    "status.podIP": "192.0.2.7",
}
PEM = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"


def around(*files: str, cores: int = 8, mesh_config: str | None = None) -> Surroundings:
    return Surroundings(exists={ROOT_CERT, TOKEN, *files}.__contains__, cores=cores, mesh_config=mesh_config)


def of(environ: Mapping[str, str], surroundings: Surroundings | None = None) -> Translation:
    return translate({"NODE_NAME": "n1", **environ}, surroundings or around("/token"))


@dataclass(frozen=True)
class Case:
    """`becomes`: options as the agent has them. `told`: metadata. `note`: part of what is said of it. Else refused."""

    name: str
    value: str
    becomes: Mapping[str, object] | None = None
    told: Mapping[str, object] | None = None
    note: str = ""
    refused: str = ""

    @property
    def columns(self) -> set[str]:
        is_honoured = self.becomes is not None or self.told is not None
        return {
            column
            for column, there in (
                ("honoured", is_honoured),
                ("without_effect", self.note),
                ("refused", self.refused),
            )
            if there
        }


NOTHING: dict[str, object] = {}
CASES = (
    Case("PROXY_MODE", "shared", NOTHING),
    Case("PROXY_MODE", "dedicated", refused="ztun enroll"),
    Case("PROXY_WORKLOAD_INFO", "a/b/c", note="PROXY_MODE=dedicated"),
    Case("ENABLE_PROXY", "true", NOTHING),
    Case("ENABLE_PROXY", "false", refused="nothing is left to run"),
    Case("ENABLE_PROXY", "True", refused="true or false"),
    Case("NODE_NAME", "n2", {"node": "n2"}),
    Case("NETWORK", "east", {"network": "east"}),
    Case("CLUSTER_ID", "c1", {"cluster_id": "c1"}),
    Case("ISTIO_META_CLUSTER_ID", "c2", {"cluster_id": "c2"}),
    Case("CLUSTER_DOMAIN", "corp.example", {"cluster_domain": "corp.example"}),
    Case("TRUST_DOMAIN", "corp.example", note="control plane"),
    Case("POD_NAME", "ztunnel-x", {"pod_name": "ztunnel-x"}),
    Case("POD_NAMESPACE", "mesh", {"pod_namespace": "mesh"}),
    Case("SERVICE_ACCOUNT", "ztunnel", told={"SERVICE_ACCOUNT": "ztunnel"}),
    Case("INSTANCE_IP", "192.0.2.7", {"instance_ip": "192.0.2.7"}),
    Case("XDS_ADDRESS", "d.example:15012", {"xds_address": "d.example:15012"}),
    Case("XDS_ADDRESS", "https://d.example", {"xds_address": "d.example:443"}),
    Case("XDS_ADDRESS", "https://[2001:db8::1]:9/", {"xds_address": "[2001:db8::1]:9"}),
    Case("XDS_ADDRESS", "[2001:db8::1]", {"xds_address": "[2001:db8::1]:443"}),
    Case("CA_ADDRESS", "ca.example:15012", {"ca_address": "ca.example:15012"}),
    Case("XDS_ROOT_CA", "/roots.pem", {"root_cert": "/roots.pem"}),
    Case("XDS_ROOT_CA", "SYSTEM", {"root_cert": "SYSTEM"}),
    Case("CA_ROOT_CA", PEM, {"ca_root_cert": PEM}),
    Case("ALT_XDS_HOSTNAME", "istiod.example", refused="ZTUN_SERVER_NAME"),
    Case("ALT_CA_HOSTNAME", "istiod.example", refused="ZTUN_SERVER_NAME"),
    Case("AUTH_TOKEN", "/token", {"token_file": "/token"}),
    Case("AUTH_TOKEN", "eyJhbGciOi", refused="name the file"),
    Case("XDS_HEADER_x-key", "s3cret", refused="proxy before the control plane"),
    Case("CA_HEADER_x-key", "s3cret", refused="proxy before the control plane"),
    Case("XDS_ON_DEMAND", "false", {"on_demand": "false"}),
    Case("XDS_ON_DEMAND", "true", {"on_demand": "true"}),
    Case("LOCAL_XDS_PATH", "/x.yaml", refused="ztun control-plane --ztunnel-config"),
    Case("LOCAL_XDS", "{}", refused="ztun control-plane --ztunnel-config"),
    Case("FAKE_CA", "false", NOTHING),
    Case("FAKE_CA", "true", refused="CA_ADDRESS"),
    Case("SECRET_TTL", "1h30m", {"secret_ttl_s": 5400.0}),
    Case("SECRET_TTL", "5s", refused="from 10"),
    Case("PREFERED_SERVICE_NAMESPACE", "x", {"dns_preferred_namespace": "x"}),
    Case("ISTIO_META_DNS_CAPTURE", "True", {"dns_capture": "true"}, told={"DNS_CAPTURE": "True"}),
    Case("ISTIO_META_DNS_CAPTURE", "no", told={"DNS_CAPTURE": "no"}),
    Case("ISTIO_META_DNS_PROXY_ADDR", "localhost:15053", told={"DNS_PROXY_ADDR": "localhost:15053"}, note="DNS"),
    Case("ISTIO_META_ENABLE_HBONE", "true", told={"ENABLE_HBONE": "true"}),
    Case("ISTIO_META_ISTIO_VERSION", "1.29.0", told={"ISTIO_VERSION": "1.29.0"}),
    Case("ISTIO_METAJSON_LABELS", '{"a": "b"}', told={"LABELS": {"a": "b"}}),
    Case("ISTIO_METAJSON_LABELS", "{", refused="it takes JSON"),
    Case("INPOD_UDS", "/run/z.sock", {"zds_socket": "/run/z.sock"}),
    Case("INPOD_ENABLED", "true", note="neither does ztunnel"),
    Case("INPOD_PORT_REUSE", "true", note="not in the pods"),
    Case("PACKET_MARK", "1337", note="not marked"),
    Case("ENABLE_ORIG_SRC", "true", NOTHING),
    Case("ENABLE_ORIG_SRC", "false", refused="client's address"),
    Case("IPV6_ENABLED", "true", NOTHING),
    Case("IPV6_ENABLED", "false", {"metrics_address": "0.0.0.0:15020", "readiness_address": "0.0.0.0:15021"}),
    Case("UNSTABLE_ENABLE_SOCKS5", "false", NOTHING),
    Case("UNSTABLE_ENABLE_SOCKS5", "true", {"socks5": "true"}, note="clients name port 15080 of 169.254.77.1"),
    Case("LOCALHOST_APP_TUNNEL", "true", note="have to listen there"),
    Case("LOCALHOST_APP_TUNNEL", "false", NOTHING),
    Case("ENABLE_RESPONSE_BAGGAGE", "true", NOTHING),
    Case("ENABLE_RESPONSE_BAGGAGE", "false", note="all the same"),
    Case("HTTP2_STREAM_WINDOW_SIZE", "1048576", {"stream_window_bytes": 1048576}),
    Case("HTTP2_CONNECTION_WINDOW_SIZE", "33554432", {"connection_window_bytes": 33554432}),
    Case("HTTP2_FRAME_SIZE", "65536", {"frame_bytes": 65536}),
    Case("HTTP2_FRAME_SIZE", "1", refused="from 16384"),
    Case("POOL_MAX_STREAMS_PER_CONNECTION", "50", {"pool_max_streams": 50}),
    Case("POOL_UNUSED_RELEASE_TIMEOUT", "1m", {"pool_idle_s": 60.0}),
    Case("KEEPALIVE_ENABLED", "true", NOTHING),
    Case("KEEPALIVE_ENABLED", "false", note="180 s"),
    Case("KEEPALIVE_TIME", "60s", note="180 s"),
    Case("KEEPALIVE_INTERVAL", "60s", note="180 s"),
    Case("KEEPALIVE_RETRIES", "3", note="nine"),
    Case("USER_TIMEOUT_ENABLED", "false", NOTHING),
    Case("USER_TIMEOUT_ENABLED", "true", note="keepalive"),
    Case("CONNECTION_TERMINATION_DEADLINE", "1m", {"drain_deadline_s": 60.0}),
    Case("CONNECTION_TERMINATION_DEADLINE", "60", refused="a duration like"),
    Case("TERMINATION_GRACE_PERIOD_SECONDS", "30", {"drain_deadline_s": 25.0}),
    Case("TERMINATION_GRACE_PERIOD_SECONDS", "10", {"drain_deadline_s": 9.0}),
    Case("TERMINATION_GRACE_PERIOD_SECONDS", "1", {"drain_deadline_s": 1.0}),
    Case("ZTUNNEL_WORKER_THREADS", "3", {"workers": 3}),
    Case("ZTUNNEL_WORKER_THREADS", "0", {"workers": 8}),
    Case("ZTUNNEL_WORKER_THREADS", "30%", {"workers": 3}),
    Case("ZTUNNEL_WORKER_THREADS", "0%", refused="above 0%"),
    Case("ZTUNNEL_CPU_LIMIT", "16", {"workers": 4}),
    Case("ZTUNNEL_RESOURCE_CPU_LIMIT", "500m", {"workers": 1}),
    Case("ZTUNNEL_RESOURCE_CPU_REQUEST", "2500m", {"workers": 3}),
    Case("ZTUNNEL_RESOURCE_CPU_REQUEST", "many", refused="number of cores"),
    Case("CRL_PATH", "/crl.pem", {"crl_path": "/crl.pem"}),
    Case("AUTHZ_POLICY_INFO_LOGGING", "true", note="access log"),
    Case("COMPLIANCE_POLICY", "pqc", {"compliance_policy": "pqc"}),
    Case("COMPLIANCE_POLICY", "", NOTHING),
    Case("COMPLIANCE_POLICY", "fips-140-2", refused="no such policy is known"),
    Case("TLS12_ENABLED", "false", NOTHING),
    Case("TLS12_ENABLED", "true", refused="only TLS 1.3"),
    Case("RUST_LOG", "info", {"log_level": "info"}),
    Case("RUST_LOG", "trace", {"log_level": "trace,access=trace"}),
    Case("RUST_LOG", "off", {"log_level": "off,access=off"}),
    Case("RUST_LOG", "warn,access=info", {"log_level": "warn,access=info"}),
    Case("RUST_LOG", "ztunnel::proxy=debug", {"log_level": "info,proxy=debug"}),
    Case("RUST_LOG", "info,h2=off", {"log_level": "info,h2=off"}),
    Case("RUST_LOG", "info,hyper=off", {"log_level": "info"}, note="hyper=off"),
    Case("RUST_LOG", "info,h2=loud", refused="'loud' is no level"),
    Case("RUST_LOG", "loud", refused="'loud' is no level"),
    Case("LOG_FORMAT", "json", {"log_format": "json"}),
    Case("LOG_FORMAT", "xml", refused="plain or json"),
    Case("RUST_BACKTRACE", "1", note="no Rust"),
    *(
        Case(name, "[", refused="it takes YAML")
        for name in ("PROXY_CONFIG",)
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}={case.value[:16]}")
def test_a_variable_becomes_what_the_table_says(case: Case) -> None:
    environ = {case.name: case.value}
    if case.refused:
        with pytest.raises(CannotServe) as caught:
            of(environ)
        assert str(caught.value).startswith(case.name) and case.refused in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    found, without = of(environ), of({})
    settings = config.build(found.options)
    expected = config.build({**without.options, **{k: str(v) for k, v in (case.becomes or {}).items()}})
    told = json.loads(settings.node_metadata or "{}")
    assert told == (case.told or {})
    differing = {
        name
        for name in config.options()
        if getattr(settings, name) != getattr(expected, name) and name != "node_metadata"
    }
    assert not differing
    notes = [note for note in found.notes if note not in without.notes]
    assert len(notes) == bool(case.note) and all(note.startswith(f"{case.name} ") for note in notes)
    assert not notes or case.note in notes[0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_cell_of_the_table_has_a_case(row: object) -> None:
    assert hasattr(row, "name")
    cases = [case for case in CASES if row_of(case.name) is row]
    filled = {column for column in ("honoured", "without_effect", "refused") if getattr(row, column)}
    assert filled <= {column for case in cases for column in case.columns}
    assert filled, "a row says something"


def test_the_document_has_the_table() -> None:
    text = (ROOT / "docs" / "ZTUNNEL-DROP-IN.md").read_text()
    table = re.search(r"^\| variable \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table and table[1].splitlines() == [row.line() for row in ROWS]


def test_no_value_that_may_be_secret_is_repeated() -> None:
    for name in ("AUTH_TOKEN", "XDS_HEADER_authorization", "CA_HEADER_authorization"):
        with pytest.raises(CannotServe) as caught:
            of({name: "s3cret"})
        assert "s3cret" not in str(caught.value)


def stock_environment() -> dict[str, str]:
    """As the kubelet gives it: what is taken from fields, and a Service of the namespace."""
    [container] = yaml.safe_load(STOCK.read_text())["spec"]["template"]["spec"]["containers"]
    found = {}
    for each in container["env"]:
        source = each.get("valueFrom", {})
        if "fieldRef" in source:
            found[each["name"]] = FIELDS[source["fieldRef"]["fieldPath"]]
        elif "resourceFieldRef" in source:
            found[each["name"]] = "8"
        else:
            found[each["name"]] = each["value"]
    return found | {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "ISTIO_GATEWAY_SERVICE_HOST": "10.96.0.2",
        "ISTIO_GATEWAY_SERVICE_PORT_HTTP2": "80",
        "ISTIO_GATEWAY_PORT": "tcp://10.96.0.2:80",
        "ISTIO_GATEWAY_PORT_80_TCP": "tcp://10.96.0.2:80",
        "ISTIO_GATEWAY_PORT_80_TCP_ADDR": "10.96.0.2",
        "PATH": "/usr/bin",
        "HOSTNAME": "n1",
    }


def test_the_stock_daemonset_is_understood_wholly() -> None:
    found = translate(stock_environment(), around())
    settings = config.from_environment(
        {}, {f"ZTUN_{name.upper()}": text for name, text in found.options.items()}
    )
    assert (settings.node, settings.pod_name, settings.instance_ip) == ("n1", "ztunnel-x", "192.0.2.7")
    assert settings.xds_address == settings.ca_address == "istiod.istio-system.svc:15012"
    assert settings.server_name == "", "the host of the address, as upstream"
    assert (settings.root_cert, settings.token_file) == (ROOT_CERT, TOKEN)
    assert settings.drain_deadline_s == 25 and not settings.report_enrolled
    assert json.loads(settings.node_metadata) == {"ENABLE_HBONE": "true", "SERVICE_ACCOUNT": "ztunnel"}
    assert {note.split()[0] for note in found.notes} == {"INPOD_ENABLED", "RUST_BACKTRACE"}


@pytest.mark.parametrize(
    "name", ["ISTIO_BOGUS", "ZTUNNEL_WORKERS", "XDS_ADDRES", "ZTUN_WORKER", "INPOD_MARK"]
)
def test_what_nobody_knows_is_named_once(name: str) -> None:
    [note] = [note for note in of({name: "x"}).notes if name in note]
    assert note.startswith(f"{name} has no effect") and "misspelt" in note


def test_what_others_use_is_none_of_our_business() -> None:
    assert (
        of({"PATH": "/bin", "HOME": "/", "LANG": "C", "GPG_KEY": "x", "ZTUN_WORKERS": "2"}).notes
        == of({}).notes
    )


def test_everything_that_is_refused_is_named_at_once() -> None:
    with pytest.raises(CannotServe) as caught:
        translate({"COMPLIANCE_POLICY": "fips", "FAKE_CA": "true"}, around())
    assert all(name in str(caught.value) for name in ("COMPLIANCE_POLICY", "FAKE_CA", "NODE_NAME"))


def test_defaults_are_upstreams() -> None:
    assert of({}).options["xds_address"] == "localhost:15012"
    assert of({"KUBERNETES_SERVICE_HOST": "x"}).options["ca_address"] == "istiod.istio-system.svc:15012"
    assert of({}).options["zds_socket"] == "/var/run/ztunnel/ztunnel.sock"
    without = translate({"NODE_NAME": "n1"}, Surroundings(lambda _: False, 2))
    assert "token_file" not in without.options
    assert any(TOKEN in note for note in without.notes)


def test_a_proxy_config_counts_below_single_variables() -> None:
    mesh = "defaultConfig: {discoveryAddress: mesh.example:1, statsPort: 1520, proxyMetadata: {A: mesh, B: mesh}}"
    own = (
        "{discoveryAddress: own.example:2, concurrency: 3, "
        "proxyAdminPort: 1500, tracing: {}, proxyMetadata: {B: own}}"
    )
    found = of({"PROXY_CONFIG": own, "ISTIO_META_A": "variable"}, around(mesh_config=mesh))
    settings = config.build(found.options)
    assert settings.xds_address == "own.example:2"
    assert (settings.metrics_address, settings.admin_address) == ("[::]:1520", "127.0.0.1:1500")
    assert settings.workers == 3
    assert json.loads(settings.node_metadata) == {"A": "variable", "B": "own"}
    assert any(note.startswith("PROXY_CONFIG.tracing has no effect") for note in found.notes)
    assert of({"XDS_ADDRESS": "v:3", "PROXY_CONFIG": own}).options["xds_address"] == "v:3"


def test_one_deadline_goes_before_the_grace_period() -> None:
    both = {"CONNECTION_TERMINATION_DEADLINE": "7s", "TERMINATION_GRACE_PERIOD_SECONDS": "30"}
    for environ in (both, dict(reversed(both.items()))):
        assert of(environ).options["drain_deadline_s"] == "7"


def test_who_names_pods_is_said_once() -> None:
    """Labels in place of an istio-cni; the two together are refused."""
    assert "zds_socket" not in of({"ZTUN_POD_SOURCE": "kubernetes"}).options
    found = of({"ZTUN_POD_SOURCE": "kubernetes", "INPOD_UDS": "/run/z.sock", "KUBERNETES_SERVICE_HOST": "x"})
    with pytest.raises(config.ConfigError, match="--zds-socket"):
        config.build({**found.options, "pod_source": "kubernetes"})


def test_a_cluster_of_the_metadata_goes_before_the_other() -> None:
    both = {"CLUSTER_ID": "a", "ISTIO_META_CLUSTER_ID": "b"}
    for environ in (both, dict(reversed(both.items()))):
        assert of(environ).options["cluster_id"] == "b"
