"""The API of a cluster with a pod and an agent in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import kube
from tests.support.cluster_plane import NS, review


@pytest.fixture
def api(tmp_path: Path) -> Any:
    (tmp_path / "api").mkdir()
    with kube.FakeApi(tmp_path / "api") as api:
        api.create(kube.namespace("demo"))
        api.create(kube.pod("web", address="10.10.0.5", uid="u-web"))
        api.create(kube.pod("agent-1", NS, node="n1", address="192.0.2.1", uid="u-agent", hostNetwork=True))
        api.reviews["of-n1"] = review("agent-1", "u-agent")
        yield api
