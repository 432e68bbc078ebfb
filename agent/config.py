"""The agent's configuration: one frozen value, one table of every flag, variable, default and bound.

The command line is generated from the table and `docs/OPERATIONS.md` repeats it; nothing else reads the
environment. A wrong value is refused with the flag's name, what it got and what it takes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.model.address import CIDR
from agent.model.encapsulation import ENCAPSULATION_NAMES
from agent.option_combinations import faults
from agent.option_kinds import (
    ADDRESS,
    CIDRS,
    DIRECTORY,
    DOMAIN,
    ENCAPSULATION_LIST,
    FILE,
    HOST_PORT,
    HOST_PORT_OR_NONE,
    INSTANCE,
    JSON_OBJECT,
    LEVELS,
    NAME,
    NAME_OR_NONE,
    NAMESPACE,
    NAMESPACE_LIST,
    NAMESPACE_OR_NONE,
    SERVER,
    SOCKET,
    SWITCH,
    TEXT,
    number,
    one_of,
    seconds,
)
from agent.option_rows import (
    Option,
    control_option,
    kubernetes_option,
    node_option,
    server_option,
    traffic_option,
)

MOST_WORKERS = 63
"""One may have to hand on the sockets of all of them, and a message takes 253."""


class ConfigError(ValueError):
    """A flag or variable has a value that cannot be used; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an agent and its workers run by. Durations are seconds, sizes bytes."""

    node: str = node_option(NAME_OR_NONE, "", "Name of this node, as in spec.nodeName of its pods.")
    instance: str = node_option(INSTANCE, "ztun", "Name of this agent where several share a machine.")
    run_dir: Path = node_option(DIRECTORY, "", "Sockets, locks and notes; without it /run/ztun/INSTANCE.")
    start_patience_s: float = node_option(
        seconds(0, 86400),
        "0",
        "How long to wait for another agent of this run directory to end.",
        of_control=True,
    )
    take_over_s: float = node_option(
        seconds(0, 3600),
        "0",
        "Have another agent of this run directory step aside at once, in place of waiting for its end: it stands by, "
        "and serves again when this one has ended, or does not serve after so long. Wants --start-patience-s too: "
        "how long this one waits for that. 0: wait.",
        of_control=True,
    )
    succession_s: float = node_option(
        seconds(0, 3600),
        "0",
        "How long workers serve when the agent was asked to end, outside of its container, until the next agent has "
        "them; then they end. 0: they end with the agent.",
        of_control=True,
    )
    load_timeout_s: float = node_option(
        seconds(1, 3600),
        "60",
        "How long it may take to compile and load the programs, where no agent did before.",
        of_control=True,
    )
    workers: int = node_option(
        number(0, MOST_WORKERS), "0", "Worker processes; 0 is a quarter of the cores, at least 2."
    )

    xds_address: str = control_option(HOST_PORT, "127.0.0.1:15012", "Where the control plane is.")
    ca_address: str = control_option(
        HOST_PORT_OR_NONE, "", "Where the certificate authority is; without it the control plane."
    )
    root_cert: str = control_option(FILE, "", "The root that signs the control plane's certificate.")
    ca_root_cert: str = control_option(
        FILE, "", "The root that signs the certificate authority's own certificate; without it the other."
    )
    token_file: str = control_option(
        FILE, "", "The token this agent shows the control plane.", of_control=True
    )
    server_name: str = control_option(
        TEXT,
        "istiod.istio-system.svc",
        "Name that the control plane's certificate must carry; empty: the host of its address.",
    )
    cluster_id: str = control_option(NAME, "Kubernetes", "Cluster of this node.")
    network: str = control_option(NAME_OR_NONE, "", "Network of this node.")
    pod_name: str = control_option(NAME, "ztun", "This agent's pod, shown to the control plane.")
    pod_namespace: str = control_option(NAMESPACE, "istio-system", "Namespace of this agent's pod.")
    instance_ip: str = control_option(ADDRESS, "1.1.1.1", "Address shown to the control plane.")
    node_metadata: str = control_option(
        JSON_OBJECT, "", "More that the control plane is told of this node: a JSON object."
    )
    report_enrolled: bool = control_option(
        SWITCH,
        "true",
        "Tell the control plane which pods are captured; false for istiod, which reads an annotation.",
        of_control=True,
    )
    on_demand: bool = control_option(
        SWITCH,
        "false",
        "Have the control plane send only what this node's pods dial, by name and when they do, instead of the whole "
        "mesh. Connections wait a second at most, and are refused where it does not say.",
    )
    crl_path: str = control_option(
        FILE,
        "",
        "Revocation lists of the mesh's authorities (PEM, or one as DER), followed when they change; peers on them are "
        "refused, and their connections ended.",
    )
    secret_ttl_s: float = control_option(
        seconds(10, 90 * 86400), "86400", "Lifetime asked for certificates.", of_control=True
    )

    local_path: str = traffic_option(
        one_of("hbone", "host", "handover"),
        "hbone",
        "Between pods of this node: hbone is TLS, host none; both dial by the host, so its NetworkPolicy holds, on "
        "15008 or on the port itself. handover skips TLS and the host.",
    )
    host_traffic: str = traffic_option(
        one_of("all", "kubelet", "none"),
        "all",
        "Whose connections from the node itself to enrolled pods pass by the proxy and its policies: all, those of the "
        "kubelet (its probes), none. The others are treated as plaintext from anywhere.",
    )
    honest_connect: str = traffic_option(
        one_of("off", "pods", "all"),
        "off",
        "Whose connections are answered only when their destination has answered, so that connect() says what is "
        "so: nobody's, of pods enrolled with --honest-connect, of all but those with --no-honest-connect.",
    )
    dns_capture: bool = traffic_option(
        SWITCH,
        "false",
        "Whether DNS queries of pods are captured: names of the mesh are answered here, others by the pod's own name "
        "server. A pod's annotation ambient.istio.io/dns-capture says otherwise for that pod.",
    )
    dns_fail: str = traffic_option(
        one_of("closed", "open"),
        "closed",
        "What becomes of captured DNS over UDP while no worker serves: closed drops it, and it is asked again; open "
        "lets it go on to the name server.",
    )
    cluster_domain: str = traffic_option(
        DOMAIN, "cluster.local", "Domain of the cluster, of its Services' names."
    )
    dns_preferred_namespace: str = traffic_option(
        NAMESPACE_OR_NONE,
        "",
        "Where Services of several namespaces have a host name, and neither the pod's own nor a canonical one is "
        "among them: whose addresses are the answer.",
    )
    socks5: bool = traffic_option(
        SWITCH,
        "false",
        "Whether enrolled pods may ask for connections by SOCKS5, at port 15080 of 169.254.77.1 and fd7a:7475:6e::1.",
    )
    compliance_policy: str = traffic_option(
        one_of("off", "pqc"),
        "off",
        "With pqc HBONE goes by the post-quantum key exchange X25519MLKEM768 alone; who has not that is refused.",
    )
    mesh_cidrs: tuple[CIDR, ...] = traffic_option(
        CIDRS, "", "Ranges in which an unknown destination is refused instead of passed through."
    )
    unknown_destination: str = traffic_option(
        one_of("passthrough", "refuse"), "passthrough", "What to do with destinations the mesh does not know."
    )
    enforce_waypoint: bool = traffic_option(
        SWITCH,
        "false",
        "Refuse what reaches a pod past its waypoint, or past that of a Service that leads to the port; by plaintext, "
        "too. Ingress gateways need istio.io/ingress-use-waypoint then.",
    )
    allow_encapsulation: tuple[str, ...] = traffic_option(
        ENCAPSULATION_LIST,
        "",
        "Kinds of packets inside of packets that enrolled pods may use; what is in them passes by the mesh: "
        f"{', '.join(ENCAPSULATION_NAMES)}.",
    )
    prefilter: str = traffic_option(
        one_of("on", "off"),
        "on",
        "Whether programs of the kernel answer new connections that policy denies by addresses and ports alone; some "
        "go to a worker all the same, ten a second of a pod, so that metrics and access log have them.",
    )
    connect_timeout_s: float = traffic_option(seconds(0.1, 300), "10", "Limit of one connect.")
    handshake_timeout_s: float = traffic_option(seconds(0.1, 300), "10", "Limit of one TLS handshake.")
    drain_deadline_s: float = traffic_option(
        seconds(0, 3600), "5", "How long live connections may finish when the agent stops."
    )
    pool_idle_s: float = traffic_option(
        seconds(1, 86400), "300", "An unused HBONE connection is closed after this."
    )
    pool_max_streams: int = traffic_option(
        number(1, 10000), "100", "Tunnels in one HBONE connection, at most."
    )
    stream_window_bytes: int = traffic_option(
        number(65535, 2**31 - 1),
        "4194304",
        "Flow-control window of one tunnel, at most: it begins with 256 KiB and grows while it is read fast.",
    )
    connection_window_bytes: int = traffic_option(
        number(65535, 2**31 - 1),
        "16777216",
        "Flow-control window of an HBONE connection, not below that of a tunnel. Tunnels that are not read take none.",
    )
    unread_bytes: int = traffic_option(
        number(1 << 20, 2**40),
        "268435456",
        "What applications and peers may leave unread in one worker; beyond it the longest unread are reset.",
    )
    frame_bytes: int = traffic_option(
        number(16384, 2**24 - 1), "1048576", "Largest HTTP/2 frame accepted; a peer cuts its own to it."
    )
    stranger_rate: int = traffic_option(
        number(0, 1_000_000),
        "2",
        "Connections a second that one address may open to the tunnel port of a pod, on average, before it has proven "
        "who it is; SYNs over it are dropped and come again. 0: any number.",
    )
    stranger_burst: int = traffic_option(number(1, 65536), "64", "So many of these may come at once.")
    max_connections: int = traffic_option(
        number(1, 10**7), "50000", "Live connections of one worker; more are refused."
    )

    pod_source: str = kubernetes_option(
        one_of("command", "kubernetes"),
        "command",
        "Who says which pods are captured: `ztun enroll` alone, or labels in the Kubernetes API too.",
    )
    kubeconfig: str = kubernetes_option(
        FILE, "", "How to reach the Kubernetes API; without it as the pod that the agent runs in."
    )
    kubernetes_api: str = kubernetes_option(
        HOST_PORT_OR_NONE, "", "Where the API is, for a pod; without it as the kubelet tells every container."
    )
    exclude_namespaces: tuple[str, ...] = kubernetes_option(
        NAMESPACE_LIST, "kube-system", "Namespaces whose pods are never captured by their labels."
    )
    enablement_selectors: str = kubernetes_option(
        TEXT,
        "",
        "Which pods are captured: YAML as in ambient.enablementSelectors of Istio's chart; without it as there.",
    )
    keep_existing_s: float = kubernetes_option(
        seconds(0, 86400),
        "0",
        "How long connections go on in plaintext that a running pod has open when its labels take it in; 0: they are "
        "reset with their next packet.",
    )

    zds_socket: str = kubernetes_option(
        SOCKET,
        "",
        "Take pods from the istio-cni that listens there, as ztunnel does; its own is /var/run/ztunnel/ztunnel.sock.",
    )

    cni_conf_dir: Path = kubernetes_option(
        DIRECTORY,
        "",
        "Chain ztun-cni into the network configuration there and keep it so; without it pods are captured when the API "
        "tells of them.",
    )
    cni_bin_dir: Path = kubernetes_option(
        DIRECTORY, "/opt/cni/bin", "Where the runtime looks for CNI plugins."
    )
    cni_own_file: bool = kubernetes_option(
        SWITCH, "false", "Chain it in a copy, for a CNI that writes its own file anew whenever it starts."
    )

    admin_address: str = server_option(SERVER, "127.0.0.1:15000", "The admin server.", of_control=True)
    metrics_address: str = server_option(SERVER, "[::]:15020", "The Prometheus endpoint.", of_control=True)
    readiness_address: str = server_option(SERVER, "[::]:15021", "The readiness probe.", of_control=True)
    log_format: str = server_option(one_of("plain", "json"), "plain", "Format of the log and the access log.")
    log_level: str = server_option(
        LEVELS,
        "info",
        "Least level logged, and those of single modules as the log shows them; access is the access log.",
    )

    @property
    def directory(self) -> Path:
        """The run directory: sockets of the agent and its workers."""
        return run_directory(self.instance, self.run_dir if str(self.run_dir) != "." else None)

    @property
    def worker_count(self) -> int:
        return self.workers or min(max(2, -(-(os.cpu_count() or 1) // 4)), MOST_WORKERS)


def run_directory(instance: str, run_dir: Path | None = None) -> Path:
    """Where an instance has its sockets: its usual place unless it was given another."""
    return run_dir or Path("/run/ztun") / instance


def options() -> Mapping[str, Option]:
    """The table: field name -> its row."""
    return {f.name: f.metadata["option"] for f in dataclasses.fields(Config)}


def variable(name: str) -> str:
    """What an option is called in the environment."""
    return f"ZTUN_{name.upper()}"


def build(values: Mapping[str, str], variables: Collection[str] = ()) -> Config:
    """A Config from texts by field name; missing ones take the default.

    Raises ConfigError, which names an option among `variables` as one.
    """
    table = options()
    parsed = {}

    def called(name: str) -> str:
        return variable(name) if name in variables else f"--{name.replace('_', '-')}"

    for name, value in values.items():
        if name not in table:
            raise ConfigError(f"{name!r} is not an option")
        try:
            parsed[name] = table[name].kind.parse(value)
        except ValueError as error:
            raise ConfigError(f"{called(name)}: {value!r} cannot be used: {error}") from error
    config = Config(**parsed)

    def is_given(name: str) -> bool:
        return bool(getattr(config, name) != table[name].kind.parse(table[name].default))

    for name, fault in faults(config, is_given):
        raise ConfigError(f"{called(name)}: {fault}")
    return config


def environment() -> Mapping[str, str]:
    """The variables of this process, for a command that is told by others than `ZTUN_*`."""
    return dict(os.environ)


def from_environment(flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> Config:
    """A Config from flags over `ZTUN_*` variables over defaults."""
    variables = os.environ if environ is None else environ
    given = {name: value for name, value in flags.items() if value is not None}
    told = {name: variables[variable(name)] for name in options() if variable(name) in variables}
    return build({"kubernetes_api": api_of_pod(variables)} | told | given, told.keys() - given.keys())


def api_of_pod(environ: Mapping[str, str] | None = None) -> str:
    """HOST:PORT of the API, as the kubelet tells every container of a cluster; empty: there is none."""
    variables = os.environ if environ is None else environ
    host, port = (variables.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not host or not port:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def as_texts(config: Config) -> dict[str, str]:
    """The texts that `build` turns back into this Config: how it reaches a worker."""
    return {name: _as_text(getattr(config, name)) for name in options()}


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Path):
        return "" if str(value) == "." else str(value)
    return str(value)
