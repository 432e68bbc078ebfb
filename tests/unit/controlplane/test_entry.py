"""The control plane as a process: how it starts, what it says of itself, and what it keeps to itself.."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.controlplane.app import ControlPlane, Options, serve
from agent.controlplane.state_dir import StateError
from tests.support.controlplane import LIMIT_S, NAMESPACE, deny, pod, running
from tests.support.enrolment import until

WEB = pod("web-0", "node-a", "10.10.0.5")


def status(state: Path) -> dict:
    return json.loads((state / "status.json").read_text())


SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: 8080}]}
"""


def test_a_second_one_on_the_same_port_is_told_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane:
            with pytest.raises(StateError, match=r"--listen: cannot listen on .*another control plane"):
                await ControlPlane.start(
                    Options(manifests=plane.manifests, state_dir=tmp_path / "b", listen=plane.plane.address)
                )

    asyncio.run(scenario())


def test_the_entry_serves_until_it_is_told_to_stop_and_shows_allocated_addresses(tmp_path: Path) -> None:
    async def scenario() -> str:
        stop, addresses = asyncio.Event(), []

        def started(address: str) -> None:
            addresses.append(address)
            stop.set()

        (tmp_path / "manifests").mkdir(exist_ok=True)
        (tmp_path / "manifests" / "service.yaml").write_text(SERVICE)
        await serve(
            Options(manifests=tmp_path / "manifests", state_dir=tmp_path / "state", listen="[::1]:0"),
            stop=stop,
            started=started,
        )
        return addresses[0]

    assert asyncio.run(scenario()).startswith("[::1]:")
    first = status(tmp_path / "state")["vips"]["demo/web"]
    assert [":" in ip for ip in first] == [False, True]
    asyncio.run(scenario())
    assert status(tmp_path / "state")["vips"]["demo/web"] == first


def test_it_is_ready_when_something_is_served_and_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At first the one file cannot be read, then it says nothing of use, then it does."""
    caplog.set_level("INFO")

    async def scenario() -> None:
        manifests, ready = tmp_path / "manifests", asyncio.Event()
        manifests.mkdir()
        (manifests / "web.yaml").write_text("a: [")
        options = Options(manifests=manifests, state_dir=tmp_path / "state", listen="127.0.0.1:0")
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            stop = asyncio.Event()
            tasks.create_task(serve(options, stop=stop, started=lambda _: ready.set()))
            for text, said in (
                ("", "web.yaml:2 (document 1): not YAML"),
                (NAMESPACE, "there is no Pod, Service or policy to serve"),
            ):
                if text:
                    (manifests / "web.yaml").write_text(text)
                await until(lambda said=said: f"not ready: {said}" in caplog.text)
                assert not ready.is_set()
            (manifests / "web.yaml").write_text(WEB)
            await ready.wait()
            stop.set()

    asyncio.run(scenario())


def test_a_state_directory_has_one_control_plane(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = Options(
            manifests=tmp_path / "manifests", state_dir=tmp_path / "state", listen="127.0.0.1:0"
        )
        async with running(tmp_path, {"web.yaml": WEB}):
            with pytest.raises(StateError, match="another control plane uses"):
                await ControlPlane.start(options)
        await (await ControlPlane.start(options)).close()

    asyncio.run(scenario())


def test_metrics_count_what_is_served_and_what_cannot_be(tmp_path: Path) -> None:
    broken = deny("a").replace("action", "acton").replace("rules", "rulse")
    files = {"web.yaml": WEB + deny("d", action="AUDIT"), "bad.yaml": broken, "note.txt": "x"}

    async def scenario() -> dict[str, float]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        async with running(tmp_path, files, metrics_address=address) as plane, plane.client() as client:
            await client.start()
            text = await asyncio.to_thread(lambda: urlopen(f"http://{address}/metrics").read().decode())
            with pytest.raises(StateError, match=r"--metrics-address, or `off`"):
                await ControlPlane.start(
                    Options(
                        manifests=tmp_path / "manifests",
                        state_dir=tmp_path / "other",
                        listen="127.0.0.1:0",
                        metrics_address=address,
                    )
                )
        found = text_string_to_metric_families(text)
        return {
            s.name.removeprefix("ztun_control_plane_") + "".join(s.labels.values()): s.value
            for family in found
            for s in family.samples
        }

    figures = asyncio.run(scenario())
    assert (figures["serving"], figures["resourcesaddress"], figures["resourcespolicy"]) == (1, 1, 1)
    assert {e: figures[f"refused_documents{e}"] for e in ("kept", "closed", "left_out", "waiting")} == {
        "kept": 0,
        "closed": 1,
        "left_out": 0,
        "waiting": 0,
    }
    assert (figures["without_effect"], figures["warnings"], figures["streamsnode-a"]) == (1, 1, 1)


def test_a_missing_manifest_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="does not exist"):
        asyncio.run(serve(Options(manifests=tmp_path / "no", state_dir=tmp_path / "state")))


def test_secrets_are_in_no_log_and_no_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    async def scenario() -> str:
        async with running(tmp_path, {"web.yaml": WEB}) as plane:
            async with plane.client() as client:
                await client.start()
            return plane.token("node-a")

    token = asyncio.run(scenario())
    assert token not in caplog.text and "PRIVATE KEY" not in caplog.text
    assert token not in (tmp_path / "state" / "status.json").read_text()


def test_damaged_tokens_let_nobody_in_and_say_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane:
            plane.token("node-a")
            (plane.state / "tokens.json").write_text("{")
            async with plane.client() as client:
                with pytest.raises(grpc.aio.AioRpcError, match="tokens cannot be checked") as caught:
                    await client.receive()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())
