"""Which options cannot stand together, or would do nothing beside the others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agent.option_kinds import SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from agent.config import Config


def faults(config: Config, is_given: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Each as the option that is at fault and what is wrong with it. `is_given`: it has not its default value."""
    if config.stream_window_bytes > config.connection_window_bytes:
        yield (
            "stream_window_bytes",
            f"{config.stream_window_bytes} cannot be used: one tunnel can never have more than"
            f" its connection; raise --connection-window-bytes ({config.connection_window_bytes}) with it",
        )
    longest = config.directory / "worker-9999-9999.sock"
    if len(bytes(longest)) > SOCKET_PATH_BYTES:
        yield (
            "run_dir",
            f"{str(config.directory)!r} cannot be used: sockets in it would have paths such as {longest},"
            f" and Linux takes {SOCKET_PATH_BYTES} bytes; choose a shorter one",
        )
    for name, cause in _needs(config):
        if is_given(name):
            yield (
                name,
                f"{_text(getattr(config, name))!r} has no effect without {cause}: set that too, or leave it out",
            )
    for name in ("dns_capture", "enforce_waypoint") if config.on_demand else ():
        if getattr(config, name):
            yield (
                "on_demand",
                f"'true' cannot be used with --{name.replace('_', '-')}, which asks for what nobody has dialled: leave "
                "one of them out",
            )
    if config.zds_socket and config.pod_source == "kubernetes":
        yield (
            "zds_socket",
            f"{config.zds_socket!r} cannot be used with --pod-source kubernetes: istio-cni would say"
            " which pods are captured, and so would their labels; leave one of them out",
        )
    if config.stream_window_bytes > config.unread_bytes:
        yield (
            "unread_bytes",
            f"{config.unread_bytes} cannot be used: one tunnel may have more than that in its window;"
            f" lower --stream-window-bytes ({config.stream_window_bytes}) with it",
        )


def _needs(config: Config) -> Iterator[tuple[str, str]]:
    """Options that nobody reads beside the others, each with what it would need."""
    if config.pod_source != "kubernetes":
        for name in ("kubeconfig", "enablement_selectors", "keep_existing_s", "cni_conf_dir"):
            yield name, "--pod-source kubernetes"
        if not config.dns_capture:  # under Kubernetes a pod may ask for it by its annotation
            yield "dns_fail", "--dns-capture true"
    if not config.start_patience_s:
        yield "take_over_s", "--start-patience-s"
    if str(config.cni_conf_dir) == ".":
        yield "cni_bin_dir", "--cni-conf-dir"
        yield "cni_own_file", "--cni-conf-dir"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
