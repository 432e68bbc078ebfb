"""What says beside people which pods are wanted, as the options ask for it: what is not asked for is not loaded.

The client of the Kubernetes API with its YAML, and what speaks with an istio-cni, take 2 MB of a control process that
has no use for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from agent.config import Config
from agent.enroll.handed import HandedNamespaces
from agent.enroll.progress import Progress
from agent.enroll.treatment import Honesty, Ways
from agent.enroll.wish import PodKey

if TYPE_CHECKING:
    from agent.cni.keeper import PluginKeeper
    from agent.kubernetes.gate import Capturing, CniGate
    from agent.kubernetes.source import KubernetesSource
    from agent.zds.source import ZdsSource


def ways(settings: Config) -> Ways:
    """What becomes of pods that say nothing else themselves."""
    return Ways(Honesty(settings.honest_connect), settings.dns_capture)


def kubernetes(
    settings: Config, rng: Random, found: Callable[[], Mapping[PodKey, Progress]]
) -> tuple[KubernetesSource, ...]:
    """Of `--pod-source kubernetes`. Raises ConfigError for options that can never be."""
    if settings.pod_source != "kubernetes":
        return ()
    from agent.kubernetes.settings import sources_of

    return sources_of(settings, rng, found)


def cni_gate(sources: Sequence[KubernetesSource], capturing: Capturing) -> CniGate | None:
    """What the CNI plugin asks; None where no source knows the pods of Kubernetes."""
    if not sources:
        return None
    from agent.kubernetes.gate import CniGate

    return CniGate(sources[0], capturing)


def istio_cni(settings: Config, handed: HandedNamespaces, rng: Random) -> ZdsSource | None:
    """Of `--zds-socket`."""
    if not settings.zds_socket:
        return None
    from agent.zds.source import ZdsSource

    return ZdsSource(settings.zds_socket, handed, rng)


def plugin(settings: Config) -> PluginKeeper | None:
    """What keeps the CNI plugin on the node; None where it is not asked for."""
    if settings.pod_source != "kubernetes" or str(settings.cni_conf_dir) == ".":
        return None
    from agent.cni.keeper import PluginKeeper

    return PluginKeeper(settings)
