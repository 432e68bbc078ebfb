"""Whom a remark about the manifests reaches, and that it reaches him by the wire as soon as it stands or is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import grpc
import pytest

from agent.controlplane.serve.concerns import FINDINGS_LIMIT, Concerns
from agent.pb import ztun_pb2
from agent.rpc.endpoint import Endpoint
from agent.rpc.manifests_client import ManifestsClient
from tests.support.controlplane import LIMIT_S, Plane, bearer, deny, pod, running
from tests.support.enrolment import until
from tests.support.judge import Judge

WEB, DB = pod("web", "node-a", "10.10.0.5"), pod("db", "node-b", "10.10.0.6", labels="app: db")
BROKEN = deny("d", selector="app: web").replace("action", "acton")


def concerns(**texts: str) -> Concerns:
    judge, made = Judge(**texts), Concerns()
    made.replace(judge.said, judge.inventory.pods)
    return made


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        (BROKEN, {"node-a": "demo/web"}),
        (BROKEN.replace("namespace", "namepsace"), {"node-a": "", "node-b": "", "node-c": ""}),
        (deny("d").replace("action", "acton"), {"node-a": "demo/web", "node-b": "demo/db"}),
        (deny("d", action="AUDIT", selector="app: db"), {"node-b": "demo/db"}),
        (deny("d", action="AUDIT", ns="elsewhere"), {}),
        (pod("new", "node-c", "x"), {"node-c": ""}),
        ("---\na: [\n", {"node-a": "", "node-b": "", "node-c": ""}),
        (deny("d").replace("{name: d", "{annotations: {istio.io/dry-run: 'true'}, name: d"), {}),
        ("---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n", {}),
    ],
)
def test_a_remark_reaches_the_nodes_of_the_pods_it_concerns(text: str, nodes: dict[str, str]) -> None:
    made = concerns(a=WEB + DB + text)
    told = {node: made.of_node(node) for node in ("node-a", "node-b", "node-c")}
    assert {node: c[0].pod for node, c in told.items() if c} == nodes


def test_a_concern_says_what_where_what_holds_and_what_to_do() -> None:
    [one] = concerns(a=WEB + BROKEN).of_node("node-a")
    assert one.reason == (
        "refused: a.yaml:11 (document 2): AuthorizationPolicy demo/d: spec.acton: unknown field; did you mean"
        " spec.action?; its targets are denied to everybody until it is mended"
    )
    assert one.remedy == "mend a.yaml:11 of the manifests"


def test_several_pods_of_a_node_are_one_concern_that_names_some() -> None:
    many = "".join(pod(f"p{i}", "node-a", f"10.10.1.{i}") for i in range(5))
    [one] = concerns(a=many + BROKEN).of_node("node-a")
    assert one.pod == "" and one.reason.endswith("(pods demo/p0, demo/p1, demo/p2 and 2 more)")


def test_a_node_is_not_told_of_thousands() -> None:
    made = concerns(a=WEB + "".join(deny(f"d{i}", action="AUDIT") for i in range(FINDINGS_LIMIT + 7)))
    told = made.of_node("node-a")
    assert len(told) == FINDINGS_LIMIT + 1 and "there is more" in told[-1].reason


# -- by the wire


def client(plane: Plane, tmp_path: Path, node: str = "node-a") -> ManifestsClient:
    token = tmp_path / f"token-{node}"
    token.write_text(plane.token(node))
    endpoint = Endpoint(
        plane.plane.address,
        roots=str(plane.state / "root.pem"),
        server_name="istiod.istio-system.svc",
        token_file=token,
    )
    return ManifestsClient(endpoint, node, Random(1), lambda: 5000.0)


def test_an_agent_follows_what_concerns_its_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB + DB}) as plane:
            ours, theirs = client(plane, tmp_path), client(plane, tmp_path, "node-b")
            following = asyncio.gather(ours.run(), theirs.run())
            plane.write("typo.yaml", BROKEN)
            await until(lambda: bool(ours.findings))
            [finding] = ours.findings
            assert (finding.pod, finding.since) == ("demo/web", 5000.0)
            assert "typo.yaml:5" in finding.reason and "it is not in force" in finding.reason
            plane.write("typo.yaml", deny("d", action="AUDIT", selector="app: db"))
            await until(lambda: bool(theirs.findings) and not ours.findings)
            following.cancel()

    asyncio.run(scenario())


def test_what_is_wrong_stays_known_while_the_control_plane_is_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB, "typo.yaml": BROKEN}) as plane:
            ours = client(plane, tmp_path)
            following = asyncio.gather(ours.run())
            await until(lambda: bool(ours.findings))
        await asyncio.sleep(0)
        assert ours.findings
        following.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("token_of", "node", "code"),
    [("node-b", "node-a", "PERMISSION_DENIED"), ("", "node-a", "UNAUTHENTICATED")],
)
def test_only_the_node_itself_is_told(tmp_path: Path, token_of: str, node: str, code: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"web.yaml": WEB}) as plane, plane.channel() as channel:
            call = channel.unary_stream(
                "/ztun.v1.Manifests/Follow",
                request_serializer=ztun_pb2.FollowRequest.SerializeToString,
                response_deserializer=ztun_pb2.Findings.FromString,
            )(
                ztun_pb2.FollowRequest(node=node),
                metadata=bearer(plane.token(token_of) if token_of else ""),
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(call.read(), LIMIT_S)
            assert caught.value.code().name == code

    asyncio.run(scenario())
