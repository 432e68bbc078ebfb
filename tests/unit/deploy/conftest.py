"""The DaemonSet of Istio's chart with the patch that puts this image in ztunnel's place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PATCH = ROOT / "deploy" / "ztunnel" / "daemonset-patch.yaml"
STOCK = ROOT / "tests" / "vectors" / "ztunnel" / "daemonset.yaml"


@pytest.fixture(scope="session")
def patched_ztunnel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    tree = tmp_path_factory.mktemp("patched")
    shutil.copy(STOCK, tree / "daemonset.yaml")
    patch = yaml.safe_load(PATCH.read_text())
    head = {name: yaml.safe_load(STOCK.read_text())[name] for name in ("apiVersion", "kind", "metadata")}
    (tree / "patch.yaml").write_text(yaml.safe_dump({**head, **patch}))
    (tree / "kustomization.yaml").write_text("resources: [daemonset.yaml]\npatches: [{path: patch.yaml}]\n")
    done = subprocess.run(
        ["kubectl", "kustomize", str(tree)], capture_output=True, text=True, timeout=60, check=True
    )
    return yaml.safe_load(done.stdout)  # type: ignore[no-any-return]
