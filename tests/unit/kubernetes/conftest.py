"""The API server that the tests of this folder run against."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kube
from tests.support.kube_real import RealApi, RealServer
from tests.support.kube_watch import Api

BINARIES = "ZTUN_KUBE_BIN"


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer | None]:
    directory = os.environ.get(BINARIES)
    if directory is None:
        yield None
        return
    with RealServer(Path(directory), tmp_path_factory.mktemp("kube")) as server:
        yield server


@pytest.fixture(params=["fake", "real"])
def api(request: pytest.FixtureRequest, tmp_path: Path, real_server: RealServer | None) -> Iterator[Api]:
    if request.param == "fake":
        with kube.FakeApi(tmp_path) as fake:
            fake.create(kube.namespace("demo"))
            yield fake
        return
    if real_server is None:
        pytest.skip(f"{BINARIES} names no directory with kube-apiserver and etcd")
    with RealApi(real_server, tmp_path) as real:
        yield real


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[kube.FakeApi]:
    with kube.FakeApi(tmp_path) as api:
        api.create(kube.namespace("demo"))
        yield api
