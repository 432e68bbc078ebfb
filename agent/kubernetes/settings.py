"""From the agent's options to the source of wishes: a way to the API, and the rules of who is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import yaml

from agent.config import Config, ConfigError
from agent.enroll.progress import Progress
from agent.enroll.wish import PodKey
from agent.kubernetes.access import Access, AccessError, no_api, of_kubeconfig, of_pod
from agent.kubernetes.decision import Rules
from agent.kubernetes.selectors import DEFAULT, Enablement, SelectorError, enablements
from agent.kubernetes.source import KubernetesSource


def sources_of(
    settings: Config,
    rng: Random,
    found: Callable[[], Mapping[PodKey, Progress]],
) -> tuple[KubernetesSource, ...]:
    """Of `--pod-source kubernetes`. Raises ConfigError for options that can never be."""
    try:
        way, rules = of_settings(settings)
    except (AccessError, SelectorError) as error:
        raise ConfigError(f"--pod-source kubernetes: {error}") from error
    return (KubernetesSource(settings.node, way, rules, found, rng),)


def of_settings(settings: Config) -> tuple[Callable[[], Access], Rules]:
    """The way to the API, which is looked for anew each time, and the rules.

    A file that cannot be used keeps nobody from serving: it may be put right, and what was wished for holds. Raises
    AccessError, SelectorError for options that can never be; the text names them.
    """
    if not settings.node:
        raise AccessError(
            "--node is empty: without the name of this node its pods cannot be told from others"
        )
    if not settings.kubeconfig and not settings.kubernetes_api:
        raise AccessError(no_api("neither --kubeconfig nor --kubernetes-api is given"))
    selectors: tuple[Enablement, ...] = DEFAULT
    if settings.enablement_selectors:
        try:
            selectors = enablements(yaml.safe_load(settings.enablement_selectors))
        except (yaml.YAMLError, SelectorError) as error:
            raise SelectorError(f"--enablement-selectors: {str(error).splitlines()[0]}") from error
    kubeconfig = Path(settings.kubeconfig)

    def way() -> Access:
        return of_kubeconfig(kubeconfig) if settings.kubeconfig else of_pod(settings.kubernetes_api)

    return way, Rules(selectors, frozenset(settings.exclude_namespaces), settings.pod_namespace)
