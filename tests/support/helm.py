"""Helm, where there is one: on the PATH, or where scripts/helm-build has put it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "ztun"
BUILT = Path("/var/cache/ztun/helm/helm")
HELM = shutil.which("helm") or (str(BUILT) if BUILT.exists() else None)
MISSING = "there is no helm (scripts/helm-build makes one)"
NAMESPACE = "ztun-system"


class Failed(Exception):
    """Helm said no; the text is what it said."""


def run(*arguments: str, directory: Path, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
    """Its output; what it keeps is kept in `directory`. Without a kubeconfig it reaches nobody. Raises Failed."""
    assert HELM is not None
    homes = {f"HELM_{name}_HOME": str(directory / name) for name in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [HELM, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        input=stdin,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "KUBECONFIG": str(kubeconfig or directory / "none"),
            **homes,
        },
    )
    if done.returncode != 0:
        raise Failed(done.stdout + done.stderr)
    return done.stdout


def template(
    directory: Path, values: Mapping[str, Any] | None = None, namespace: str = NAMESPACE
) -> list[dict[str, Any]]:
    """The objects of a release. Raises Failed."""
    said = run(
        "template", "ztun", str(CHART), "--namespace", namespace, "--values", "-",
        directory=directory, stdin=json.dumps(values or {}),
    )  # fmt: skip
    return [each for each in yaml.safe_load_all(said) if each]
