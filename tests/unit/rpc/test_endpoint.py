"""What a call carries and where the roots come from; TLS itself is tested with the clients."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.identity.csr import make_request
from agent.model.identity import Identity
from agent.rpc.ca_client import CaClient
from agent.rpc.endpoint import SYSTEM_ROOTS, ControlError, Endpoint
from tests.support.xds import FakeControlPlane, MeshCA

WEB = Identity("cluster.local", "apps", "web")


@pytest.mark.parametrize("kind", ["file", "text", "system"])
def test_roots_come_from_a_file_a_text_or_the_machine(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with FakeControlPlane(MeshCA()) as plane:
            file = tmp_path / "root-cert.pem"
            monkeypatch.setenv("SSL_CERT_FILE", str(file))
            roots = {"file": str(file), "text": plane.ca.root_pem.decode(), "system": SYSTEM_ROOTS}[kind]
            async with CaClient(plane.endpoint(tmp_path, roots=roots), lifetime_s=60) as client:
                assert len(await client.sign(WEB, make_request(WEB).csr_pem)) == 2

    asyncio.run(body())


def test_the_machine_may_have_no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")

    async def body() -> None:
        with pytest.raises(ControlError, match="no trust store"):
            Endpoint("h:1", SYSTEM_ROOTS).open()

    asyncio.run(body())


def test_metadata_is_lower_case_and_only_what_is_set(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("  abc.def-ghi\n\n")
    assert Endpoint("h:1", "r").metadata() == ()
    full = Endpoint("h:1", "r", token_file=token, cluster_id="c1", headers=(("X-Tenant", "Blue"),))
    assert full.metadata() == (
        ("x-tenant", "Blue"),
        ("authorization", "Bearer abc.def-ghi"),
        ("clusterid", "c1"),
    )


def test_the_mark_of_the_roots_changes_with_the_file_behind_a_link(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).write_text("same size")
    link = tmp_path / "root.pem"
    endpoint = Endpoint("h:1", str(link))
    marks = {endpoint.roots_mark()}
    for version in ("one", "two"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / version)
        assert endpoint.roots_mark() == endpoint.roots_mark()
        marks.add(endpoint.roots_mark())
    assert len(marks) == 3
    assert Endpoint("h:1", "-----BEGIN CERTIFICATE-----").roots_mark() is None
