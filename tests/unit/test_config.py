"""The configuration table: every wrong value is refused by name, every right one survives the trip to a worker."""

from __future__ import annotations

import pytest

from agent import config
from agent.model.encapsulation import ENCAPSULATION_NAMES


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    environ = {"ZTUN_NODE": "from-env", "ZTUN_WORKERS": "3", "HOME": "/root"}
    built = config.from_environment({"node": "from-flag", "workers": None}, environ)
    assert (built.node, built.workers, built.instance) == ("from-flag", 3, "ztun")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("workers", "-1", "--workers"),
        ("workers", "64", "0 to 63"),
        ("xds_address", "localhost", "HOST:PORT"),
        ("xds_address", "off", "HOST:PORT"),
        ("ca_address", "localhost", "--ca-address"),
        ("xds_address", "fd00::1:15012", "brackets"),
        ("mesh_cidrs", "10.0.0.0/33", "10.0.0.0/33"),
        ("local_path", "fast", "hbone or host or handover"),
        ("allow_encapsulation", "gre,vlan", "'vlan' is none of ipip, sit, gre"),
        ("connect_timeout_s", "forever", "seconds"),
        ("connect_timeout_s", "nan", "seconds"),
        ("report_enrolled", "yes", "true or false"),
        ("instance", "../x", "letters"),
        ("instance", "", "--instance"),
        ("frame_bytes", "16777216", "16777215"),
        ("frame_bytes", "16383", "16384"),
        ("stream_window_bytes", "65534", "65535"),
        ("stream_window_bytes", "2147483648", "2147483647"),
        ("stream_window_bytes", "16777217", r"raise --connection-window-bytes \(16777216\)"),
        ("connection_window_bytes", "65534", "65535"),
        ("connection_window_bytes", "4194303", "--stream-window-bytes: 4194304"),
        ("run_dir", f"/{'d' * 85}", "--run-dir.*107 bytes; choose a shorter one"),
        ("zds_socket", f"/{'d' * 107}", "--zds-socket.*107 bytes"),
        ("cni_conf_dir", "/etc/cni/net.d", "--cni-conf-dir: .* no effect without --pod-source kubernetes"),
        ("kubeconfig", "/root/.kube/config", "--kubeconfig: .* no effect"),
        ("enablement_selectors", "[]", "--enablement-selectors: .* no effect"),
        ("allow_encapsulation", "all,gre", "`all` stands alone"),
        ("secret_ttl_s", "1", "from 10 to 7776000$"),
        ("instance_ip", "foo", "--instance-ip: 'foo' cannot be used: 'foo' is not an IP"),
        ("cluster_id", "", "--cluster-id: '' cannot be used: it takes a name"),
        ("pod_name", "a~b", "--pod-name: .* without blanks, '~' and '/'"),
        ("pod_namespace", "Mesh", "--pod-namespace: .* lower-case"),
        ("network", "a b", "--network: .* without blanks"),
        ("dns_preferred_namespace", "Demo", "--dns-preferred-namespace: .* lower-case"),
        ("cluster_domain", "cluster.local.", "--cluster-domain: .* with a dot between"),
        ("cluster_domain", "Cluster.local", "--cluster-domain: .* lower-case"),
        ("dns_fail", "open", "--dns-fail: 'open' has no effect without --dns-capture true"),
        ("keep_existing_s", "9", "--keep-existing-s: '9.0' has no effect without --pod-source kubernetes"),
        ("cni_own_file", "true", "--cni-own-file: 'true' has no effect without --cni-conf-dir"),
        ("cni_bin_dir", "/usr/lib/cni", "--cni-bin-dir: '/usr/lib/cni' has no effect without --cni-conf-dir"),
        ("colour", "red", "not an option"),
    ],
)
def test_a_wrong_value_names_the_culprit(name: str, value: str, says: str) -> None:
    with pytest.raises(config.ConfigError, match=says) as caught:
        config.build({name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("dns_capture", "ja", "^ZTUN_DNS_CAPTURE: 'ja' cannot be used: it takes true or false$"),
        ("honest_connect", "", "^ZTUN_HONEST_CONNECT: '' cannot be used"),
        ("dns_fail", "open", "^ZTUN_DNS_FAIL: 'open' has no effect .* leave it out$"),
        ("unread_bytes", "1048576", "^ZTUN_UNREAD_BYTES: 1048576 cannot be used"),
    ],
)
def test_a_wrong_variable_is_named_as_one_and_a_wrong_flag_as_a_flag(
    name: str, value: str, says: str
) -> None:
    environ = {f"ZTUN_{name.upper()}": value}
    with pytest.raises(config.ConfigError, match=says):
        config.from_environment({name: None}, environ)
    with pytest.raises(config.ConfigError, match=f"^--{name.replace('_', '-')}: "):
        config.from_environment({name: value}, environ)


def test_how_dns_fails_may_be_said_where_pods_may_ask_for_its_capture() -> None:
    for also in ({"dns_capture": "true"}, {"pod_source": "kubernetes"}):
        assert config.build({"dns_fail": "open", **also}).dns_fail == "open"


def test_a_config_survives_the_trip_to_a_worker() -> None:
    built = config.build(
        {"node": "a", "mesh_cidrs": "10.0.0.0/8,fd00::/8", "admin_address": "off", "run_dir": "/tmp/x"}
    )
    assert config.build(config.as_texts(built)) == built
    assert config.build(config.as_texts(config.build({}))) == config.build({})


def test_sockets_may_have_the_longest_paths_that_linux_takes() -> None:
    built = config.build({"run_dir": f"/{'d' * 84}", "zds_socket": f"/{'d' * 106}"})
    assert len(str(built.directory / "worker-9999-9999.sock")) == 107 == len(built.zds_socket)


def test_encapsulations_are_named_one_by_one_or_all() -> None:
    assert config.build({}).allow_encapsulation == ()
    assert config.build({"allow_encapsulation": "gre, vxlan"}).allow_encapsulation == ("gre", "vxlan")
    built = config.build({"allow_encapsulation": "all"})
    assert built.allow_encapsulation == ENCAPSULATION_NAMES
    assert config.build(config.as_texts(built)) == built


def test_every_default_is_acceptable_to_its_own_parser() -> None:
    for name, row in config.options().items():
        row.kind.parse(row.default)
        assert row.help.endswith("."), name


def test_two_parties_do_not_say_who_is_captured() -> None:
    with pytest.raises(
        config.ConfigError, match=r"--zds-socket: '/run/z' cannot be used with --pod-source kubernetes"
    ):
        config.build({"zds_socket": "/run/z", "pod_source": "kubernetes"})
    assert config.build({"zds_socket": "/run/z"}).zds_socket == "/run/z"
