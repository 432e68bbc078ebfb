"""The real istioctl, run with a home and a cluster of its own."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from redirect.netns import entered

ISTIOCTL = "ZTUN_INTEROP_ISTIOCTL"


def named_program() -> Path:
    """What the variable names. Skips where it is not set, fails where that is no program."""
    given = os.environ.get(ISTIOCTL)
    if not given:
        pytest.skip(f"{ISTIOCTL} names no istioctl (scripts/istiod-build --istioctl makes it)")
    assert os.access(given, os.X_OK), f"{ISTIOCTL}={given} is no program"
    return Path(given).resolve()


class Istioctl:
    """The program, in a home of its own."""

    def __init__(
        self, program: Path, home: Path, url: str = "http://127.0.0.1:1", netns: Path | None = None
    ) -> None:
        """`url`: of the API server; `netns`: where it is run, if not here."""
        self._program, self._home, self._netns = program, home, netns
        cluster = {"name": "c", "cluster": {"server": url}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [cluster],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }
        (home / "kubeconfig").write_text(json.dumps(config))

    def __call__(self, *arguments: str) -> str:
        """What it prints. It must succeed, and speak of no error."""
        with nullcontext() if self._netns is None else entered(self._netns):
            done = subprocess.run(
                [self._program, *arguments],
                env={"HOME": str(self._home), "KUBECONFIG": str(self._home / "kubeconfig")},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        assert done.returncode == 0 and "error" not in done.stderr.lower(), (arguments, done.stderr)
        return done.stdout
