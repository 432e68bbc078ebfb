"""The agent's configuration: one frozen value, one table of every flag, variable, default and bound.

The command line is generated from the table and `docs/OPERATIONS.md` repeats it; nothing else reads the
environment. A wrong value is refused with the flag's name, what it got and what it takes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.model.address import CIDR, AddressError, parse_cidr, split_host_port


class ConfigError(ValueError):
    """A flag or variable has a value that cannot be used; the message names it."""


def text(value: str) -> str:
    return value


def needed(value: str) -> str:
    if not value:
        raise ValueError("it must not be empty")
    return value


def one_of(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"it takes {' or '.join(words)}")
        return value

    return parse


def number(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"it takes a whole number from {low} to {high}")
        return int(value)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            result = float(value.removesuffix("s"))
        except ValueError:
            result = -1.0
        if not low <= result <= high:
            raise ValueError(f"it takes seconds, from {low:g} to {high:g}")
        return result

    return parse


def switch(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("it takes true or false")
    return value == "true"


def host_port(value: str) -> str:
    if value == "off":
        return value
    try:
        split_host_port(value)
    except AddressError as error:
        raise ValueError(str(error)) from error
    return value


def cidrs(value: str) -> tuple[CIDR, ...]:
    try:
        return tuple(parse_cidr(part.strip()) for part in value.split(",") if part.strip())
    except AddressError as error:
        raise ValueError(str(error)) from error


def path(value: str) -> Path:
    return Path(value)


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. The flag is `--name-with-dashes`, the variable `ZTUN_NAME`."""

    parse: Callable[[str], Any]
    default: str
    help: str


def option(parse: Callable[[str], Any], default: str, help: str) -> Any:
    """A field of Config with its row; the default goes through the same parser as a flag."""
    return field(default_factory=lambda: parse(default), metadata={"option": Option(parse, default, help)})


def _instance(value: str) -> str:
    if (
        not value.isascii()
        or not value.replace("-", "").isalnum()
        or len(value) > 12
        or not value[0].isalnum()
    ):
        raise ValueError("it takes 1 to 12 letters, digits and dashes")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an agent and its workers run by. Durations are seconds, sizes bytes."""

    node: str = option(text, "", "name of this node, as in spec.nodeName of its pods")
    instance: str = option(_instance, "ztun", "name of this agent where several share a machine")
    run_dir: Path = option(path, "", "directory of sockets and locks; default /run/ztun/INSTANCE")
    workers: int = option(number(0, 64), "0", "worker processes; 0: a quarter of the cores, at least 2")

    xds_address: str = option(host_port, "127.0.0.1:15012", "control plane, HOST:PORT")
    ca_address: str = option(text, "", "certificate authority, HOST:PORT; default the control plane's")
    root_cert: str = option(text, "", "file with the root that signs the control plane's certificate")
    token_file: str = option(text, "", "file with the token this agent shows the control plane")
    server_name: str = option(
        text, "istiod.istio-system.svc", "name the control plane's certificate must carry"
    )
    cluster_id: str = option(text, "Kubernetes", "cluster of this node")
    network: str = option(text, "", "network of this node")
    pod_name: str = option(text, "ztun", "this agent's pod, shown to the control plane")
    pod_namespace: str = option(text, "istio-system", "namespace of this agent's pod")
    instance_ip: str = option(text, "1.1.1.1", "address shown to the control plane")
    report_enrolled: bool = option(
        switch,
        "true",
        "tell the control plane which pods are captured; false for istiod, which reads an annotation",
    )
    secret_ttl_s: float = option(seconds(60, 90 * 86400), "86400", "lifetime asked for certificates")

    local_path: str = option(
        one_of("hbone", "handover"),
        "hbone",
        "between pods of this node: hbone (TLS, host NetworkPolicy holds) or handover (in the process, skips both)",
    )
    mesh_cidrs: tuple[CIDR, ...] = option(
        cidrs, "", "ranges in which an unknown destination is refused instead of passed through"
    )
    unknown_destination: str = option(
        one_of("passthrough", "refuse"), "passthrough", "what to do with destinations the mesh does not know"
    )
    connect_timeout_s: float = option(seconds(0.1, 300), "10", "limit of one connect")
    handshake_timeout_s: float = option(seconds(0.1, 300), "10", "limit of one TLS handshake")
    drain_deadline_s: float = option(
        seconds(0, 3600), "5", "how long live connections may finish when it stops"
    )
    pool_idle_s: float = option(seconds(1, 86400), "300", "an unused HBONE connection is closed after this")
    pool_max_streams: int = option(number(1, 10000), "100", "tunnels in one HBONE connection, at most")
    stream_window_bytes: int = option(
        number(65535, 2**31 - 1), "4194304", "flow-control window of one tunnel"
    )
    connection_window_bytes: int = option(
        number(65535, 2**31 - 1), "16777216", "flow-control window of a connection"
    )
    frame_bytes: int = option(number(16384, 2**24 - 1), "1048576", "largest HTTP/2 frame accepted")
    max_connections: int = option(
        number(1, 10**7), "50000", "live connections of one worker; more are refused"
    )

    admin_address: str = option(host_port, "127.0.0.1:15000", "HOST:PORT of the admin server, or off")
    metrics_address: str = option(host_port, "[::]:15020", "HOST:PORT of the Prometheus endpoint, or off")
    readiness_address: str = option(host_port, "[::]:15021", "HOST:PORT of the readiness probe, or off")
    log_format: str = option(one_of("plain", "json"), "plain", "format of the log and the access log")
    log_level: str = option(one_of("debug", "info", "warning", "error"), "info", "least level logged")

    @property
    def directory(self) -> Path:
        """The run directory: sockets of the agent and its workers."""
        return self.run_dir if str(self.run_dir) != "." else Path("/run/ztun") / self.instance

    @property
    def worker_count(self) -> int:
        return self.workers or max(2, -(-(os.cpu_count() or 1) // 4))


def options() -> Mapping[str, Option]:
    """The table: field name -> its row."""
    return {f.name: f.metadata["option"] for f in dataclasses.fields(Config)}


def build(values: Mapping[str, str]) -> Config:
    """A Config from texts by field name; missing ones take the default. Raises ConfigError."""
    table = options()
    parsed = {}
    for name, value in values.items():
        if name not in table:
            raise ConfigError(f"{name!r} is not an option")
        try:
            parsed[name] = table[name].parse(value)
        except ValueError as error:
            raise ConfigError(f"--{name.replace('_', '-')}: {value!r} cannot be used: {error}") from error
    return Config(**parsed)


def from_environment(flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> Config:
    """A Config from flags over `ZTUN_*` variables over defaults."""
    variables = os.environ if environ is None else environ
    values = {
        name: variables[f"ZTUN_{name.upper()}"] for name in options() if f"ZTUN_{name.upper()}" in variables
    }
    values.update({name: value for name, value in flags.items() if value is not None})
    return build(values)


def quiet_grpc() -> None:
    """Keep gRPC's C core from printing errors itself; ours carry the same text. Before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


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
