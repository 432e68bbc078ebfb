"""A node that may be made ill: a thread with network and mount namespaces of its own, and a doctor who looks at it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from agent import config
from agent.doctor.check import Check, Verdict
from agent.doctor.examination import NAMES, examine
from agent.doctor.site import Agent, Site
from redirect import lifetime, netns
from redirect.lifetime import Mounts

Answer = TypeVar("Answer")
ILL = (Verdict.WARNING, Verdict.FAILED)


def as_on_the_machine() -> Mounts:
    """As if what the thread sees were what init sees: else nothing that is mounted by it would last."""
    seen = lifetime.look()
    return replace(seen, init=seen.own, is_whole_machine=True)


class Patient:
    """Close it. Mounts and settings of its namespaces go with it."""

    def __init__(self, namespace: Path, site: Site) -> None:
        self.site = site
        self._thread = ThreadPoolExecutor(1)

        def move() -> None:
            netns.call("unshare", netns.CLONE_FS | netns.CLONE_NEWNS)
            subprocess.run(["mount", "--make-rslave", "/"], check=True)
            netns.enter(namespace)
            subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)

        self.call(move)

    def call(self, work: Callable[[], Answer]) -> Answer:
        """The answer of what is done in its thread."""
        return self._thread.submit(work).result()

    def type(self, command: str) -> str:
        """What a command prints there. Raises CalledProcessError."""
        done = self.call(
            lambda: subprocess.run(["bash", "-ec", command], check=True, capture_output=True, text=True)
        )
        return done.stdout

    def checks(self, names: Collection[str] = NAMES) -> dict[str, Check]:
        return {check.name: check for check in self.call(lambda: examine(self.site, names))}

    def ill(self) -> dict[str, Check]:
        """The checks that have failed or warn."""
        return {name: check for name, check in self.checks().items() if check.verdict in ILL}

    def with_settings(self, **changes: str) -> None:
        texts = config.as_texts(self.site.settings) | changes
        self.site = replace(self.site, settings=config.build(texts))

    def close(self) -> None:
        self._thread.shutdown()


def site_at(directory: Path, instance: str, run_dir: Path | None = None, **settings: str) -> Site:
    """Of an instance of which no agent runs."""
    run_dir = run_dir or directory / "run"
    run_dir.mkdir(exist_ok=True)
    cni = directory / "net.d"
    cni.mkdir(exist_ok=True)
    return Site(
        instance, run_dir, config.build(settings), Agent(run_dir / "agent.sock"), cni, look=as_on_the_machine
    )
