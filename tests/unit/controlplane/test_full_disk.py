"""A state directory that nothing can be written to: what concerns no address is served all the same, and it is said."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.plane_status import answer
from agent.controlplane import following, state_dir
from agent.controlplane.translate.resources import ADDRESS_TYPE, AUTHORIZATION_TYPE
from agent.pb import workload_pb2 as wds
from tests.support.controlplane import NAMESPACE, deny, pod, running, versions
from tests.support.enrolment import until

WEB = pod("web-0", "node-a", "10.10.0.5")
SERVICE = (
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: demo}\n"
    "spec: {selector: {app: web}, ports: [{port: 80}]}\n"
)
OLD, NEW = "demo/old.demo.svc.cluster.local", "demo/new.demo.svc.cluster.local"


class Disk:
    """Full, or with room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self._write = state_dir.write_whole
        monkeypatch.setattr(state_dir, "write_whole", self)
        monkeypatch.setattr(following, "LOOK_S", 0.05)

    def __call__(self, target: Path, *arguments: Any) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        self._write(target, *arguments)


def test_a_policy_beside_a_service_that_gets_no_address_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        disk = Disk(monkeypatch)
        manifests = {"web.yaml": NAMESPACE + WEB, "old.yaml": SERVICE.replace("NAME", "old")}
        async with running(tmp_path, manifests) as plane, plane.client() as client:
            addresses, _ = await client.start()
            assert OLD in addresses
            disk.is_full = True
            dual = "{ipFamilyPolicy: RequireDualStack, selector"
            plane.write("old.yaml", SERVICE.replace("NAME", "old").replace("{selector", dual))
            plane.write("new.yaml", SERVICE.replace("NAME", "new") + deny("d"))
            assert list(versions(await client.take(AUTHORIZATION_TYPE))) == ["demo/d"]
            plane.write("more.yaml", pod("other", "node-a", "10.10.0.6", labels="a: b"))
            told = await client.take(ADDRESS_TYPE)
            assert list(versions(told)) == ["Kubernetes//Pod/demo/other"], (
                "the Service of before stays as it was"
            )
            assert not told.removed_resources
            await until(
                lambda: "Service demo/new: its new address cannot be kept: cannot write" in caplog.text
            )
            disk.is_full = False
            told = await client.take(ADDRESS_TYPE)
            assert {OLD, NEW} <= versions(told).keys()
            kept = json.loads((plane.state / "vips.json").read_text())
            service = next(r for r in told.resources if r.name == OLD)
            given = wds.Address.FromString(service.resource.value).service.addresses
            assert len(kept["demo/old"]) == len(given) == 2

    asyncio.run(scenario())


def test_a_status_that_cannot_be_written_is_none_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        disk = Disk(monkeypatch)
        async with running(tmp_path, {"web.yaml": NAMESPACE + WEB}) as plane:
            await until(lambda: answer(plane.state)["state"] == "READY")
            disk.is_full = True
            plane.write("bad.yaml", deny("d", action="DENNY"))
            await until(lambda: "is the disk full?" in str(answer(plane.state)["reasons"]))
            assert answer(plane.state)["state"] == "DEGRADED"
            disk.is_full = False
            await until(lambda: "'DENNY' is not one of" in str(answer(plane.state)["reasons"]))

    asyncio.run(scenario())
