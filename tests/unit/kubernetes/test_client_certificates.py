"""Who shows the Kubernetes API a certificate of its own: a real server alone, for the fake one asks nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.kubernetes.access import Access, of_kubeconfig
from tests.support.kube_real import RealServer
from tests.support.kube_watch import following


class By:
    """The API as a kubeconfig leads to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def access(self) -> Access:
        return of_kubeconfig(self._path)


def test_a_kubeconfig_whose_certificate_has_expired_is_named_and_the_next_one_used(
    real_server: RealServer | None,
) -> None:
    if real_server is None:
        pytest.skip("ZTUN_KUBE_BIN names no directory with kube-apiserver and etcd")
    now = datetime.now(UTC)
    by = By(real_server.kubeconfig(real_server.shown_until(now - timedelta(seconds=2))))
    with following(by, "n1") as seen:
        seen.until(lambda: "is its token or client certificate expired" in seen.problem)
        assert not seen.is_listed
        real_server.kubeconfig(real_server.shown_until(now + timedelta(hours=1)))
        seen.until(lambda: seen.is_listed and not seen.problem)
