"""What a CNI plugin is answered: every state of the pod, of the API, and of the node, in whatever order news come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from agent.enroll.progress import Progress
from agent.enroll.source import Claim, NotReady, Stance
from agent.enroll.wish import PodKey, Where
from agent.kubernetes.access import Access
from agent.kubernetes.decision import Rules
from agent.kubernetes.gate import CniGate
from agent.kubernetes.objects import namespace_of, pod_of
from agent.kubernetes.reflector import Gone, Listed, Put
from agent.kubernetes.sandbox import NotAdmitted, Sandbox
from agent.kubernetes.source import KubernetesSource
from agent.model.identity import Identity
from tests.support import kube

KEY = PodKey("demo", "web")
FIRST, SECOND = "11111111-0000-0000-0000-000000000001", "22222222-0000-0000-0000-000000000002"
SANDBOX = Sandbox("c1", "/run/netns/cni-1", KEY, FIRST)
MODE = "istio.io/dataplane-mode"


class Capturing:
    """The enroller: captures at once, unless told why not."""

    trust_domain = "cluster.local"

    def __init__(self) -> None:
        self.expected: list[Identity] = []
        self.captured_pods: list[tuple[PodKey, Where | None]] = []
        self.failure = self.ca_failure = ""

    @contextmanager
    def expecting(self, identity: Identity) -> Iterator[None]:
        self.expected.append(identity)
        yield
        self.expected.remove(identity)

    async def captured(self, key: PodKey, claim: Claim, wait_s: float) -> None:
        if self.failure:
            raise NotReady(self.failure)
        self.captured_pods.append((key, claim.where))

    async def certified(self, identity: Identity, wait_s: float) -> None:
        assert identity in self.expected
        if self.ca_failure:
            raise NotReady(self.ca_failure)


class World:
    def __init__(self) -> None:
        self.found: dict[PodKey, Progress] = {}
        self.asked = 0
        """How often it was asked how far all pods of the node are."""
        way = lambda: Access("127.0.0.1", 1, "")  # noqa: E731
        self.source = KubernetesSource("n1", way, Rules(), self.found_now, Random(1))
        self.capturing = Capturing()
        self.gate = CniGate(self.source, self.capturing, patience_s=0.2)

    def found_now(self) -> dict[PodKey, Progress]:
        self.asked += 1
        return self.found

    def hear(self, *changes: Any, labels: dict[str, str] | None = None) -> None:
        ambient = {MODE: "ambient"} if labels is None else labels
        space = kube.namespace("demo", ambient)
        space["metadata"]["uid"] = "ns"
        self.source.table.hear_namespaces([Put(namespace_of(space)), Listed()])
        self.source.table.hear_pods([*changes, Listed()])
        self.source._look()

    def add(self, sandbox: Sandbox = SANDBOX) -> str:
        return run(lambda: self.gate.add(sandbox))


def run(work: Callable[[], Awaitable[str]]) -> str:
    async def main() -> str:
        return await work()

    return asyncio.run(main())


def pod(uid: str = FIRST, **more: Any) -> Put[Any]:
    return Put(pod_of(kube.pod("web", uid=uid, phase="Pending", serviceAccountName="web", **more)))


@pytest.fixture
def world() -> World:
    return World()


def test_a_pod_that_is_meant_is_captured_where_the_runtime_says_with_its_certificate(world: World) -> None:
    world.hear(pod())
    assert world.add().startswith("captured: enabled")
    assert world.capturing.captured_pods == [(KEY, Where(netns="/run/netns/cni-1"))]
    (claim,) = (world.source.claims() or {}).values()
    assert (claim.stance, claim.where) == (Stance.WANTED, Where(netns="/run/netns/cni-1"))
    assert world.capturing.expected == [Identity("cluster.local", "demo", "web")], "until it is served"
    world.found = {KEY: Progress(FIRST, True, True)}
    world.hear(pod())
    assert world.capturing.expected == []


@pytest.mark.parametrize(
    ("made", "labels"),
    [(pod(labels={MODE: "none"}), None), (pod(), {}), (pod(hostNetwork=True), None)],
    ids=["opted-out", "unlabelled", "host"],
)
def test_a_pod_that_is_not_meant_may_start(world: World, made: Any, labels: dict[str, str] | None) -> None:
    world.hear(made, labels=labels)
    assert world.add().startswith("not captured: ")
    assert not world.capturing.captured_pods


def test_the_api_may_tell_of_it_later(world: World) -> None:
    async def story() -> str:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(world.gate.add(SANDBOX))
            await asyncio.sleep(0)
            world.hear()
            await asyncio.sleep(0)
            world.hear(pod())
            return await asked

    assert asyncio.run(story()).startswith("captured")


def test_the_api_may_still_tell_of_the_one_before(world: World) -> None:
    world.hear(pod(SECOND))
    with pytest.raises(NotAdmitted, match="pod demo/web is not known to the agent"):
        world.add()


def test_the_next_one_is_told_of_after_the_one_before_has_gone(world: World) -> None:
    world.hear(pod(SECOND))

    async def story() -> str:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(world.gate.add(SANDBOX))
            await asyncio.sleep(0)
            world.hear(Gone("demo", "web", SECOND), pod())
            return await asked

    assert asyncio.run(story()).startswith("captured")


def test_a_runtime_that_tells_no_uid_means_the_pod_of_that_name(world: World) -> None:
    world.hear(pod())
    assert world.add(Sandbox("c1", "/run/netns/cni-1", KEY)).startswith("captured")


@pytest.mark.parametrize(("name", "words"), [("failure", "netkit"), ("ca_failure", "no certificate")])
def test_what_cannot_be_captured_does_not_start_and_leaves_nothing(
    world: World, name: str, words: str
) -> None:
    world.hear(pod())
    setattr(world.capturing, name, words)
    with pytest.raises(NotAdmitted, match=f"pod demo/web cannot be captured: {words}"):
        world.add()
    (claim,) = (world.source.claims() or {}).values()
    assert claim.stance is Stance.UNDECIDED, "the place of a sandbox that failed is forgotten"


def test_an_empty_mesh_needs_no_certificate(world: World) -> None:
    world.capturing.trust_domain, world.capturing.ca_failure = "", "no CA"
    world.hear(pod())
    assert world.add().startswith("captured")


def test_a_deletion_is_of_its_own_sandbox_however_often_it_comes(world: World) -> None:
    world.hear(pod())
    world.add()
    world.add(Sandbox("c2", "/run/netns/cni-2", KEY, FIRST))
    for _ in range(2):
        world.gate.delete(SANDBOX)
    (claim,) = (world.source.claims() or {}).values()
    assert claim.where == Where(netns="/run/netns/cni-2")
    world.gate.keep_only({"c2", "c3"})
    assert world.source.claims() == {KEY: claim}
    world.gate.keep_only({"c3"})
    (claim,) = (world.source.claims() or {}).values()
    assert claim.stance is Stance.UNDECIDED


def test_a_check_says_what_is(world: World) -> None:
    with pytest.raises(NotAdmitted, match="not known"):
        world.gate.check(SANDBOX)
    world.hear(pod(address="10.0.0.1"))
    with pytest.raises(NotAdmitted, match="is not captured: not yet"):
        world.gate.check(SANDBOX)
    world.found = {KEY: Progress(FIRST, False, False, "two interfaces")}
    with pytest.raises(NotAdmitted, match="is not captured: two interfaces"):
        world.gate.check(SANDBOX)
    world.found = {KEY: Progress(FIRST, True, False)}
    world.gate.check(SANDBOX)
    with pytest.raises(NotAdmitted, match="not known"):
        world.gate.check(Sandbox("c1", "", KEY, SECOND))
    world.hear(pod(address="10.0.0.1", labels={MODE: "none"}))
    world.found = {}
    world.gate.check(SANDBOX)


def test_nobody_can_be_admitted_before_the_api_was_heard(world: World) -> None:
    with pytest.raises(NotAdmitted, match="has not heard"):
        world.gate.status()
    world.hear()
    world.gate.status()


def test_news_that_change_nothing_for_a_pod_cost_no_turn(world: World) -> None:
    turns: list[int] = []
    world.source.subscribe(lambda: turns.append(1))
    world.hear(pod(address="10.0.0.1"))
    before = len(turns)
    world.hear(pod(address="10.0.0.1", annotations={"some": "thing"}))
    assert before and len(turns) == before
    world.hear(pod(address="10.0.0.2"))
    assert len(turns) > before


def test_however_many_pods_start_each_news_asks_once_how_far_all_are(world: World) -> None:
    names = [f"p{number}" for number in range(50)]
    world.hear(*(Put(pod_of(kube.pod(name, uid=f"u-{name}", phase="Pending"))) for name in names))
    world.asked = 0
    world.source._look()
    assert world.asked == 0, "nobody's start waits"
    for name in names:
        world.add(Sandbox(f"c-{name}", f"/run/netns/{name}", PodKey("demo", name), f"u-{name}"))
    assert len(world.capturing.expected) == 50
    world.asked = 0
    world.found = {PodKey("demo", name): Progress(f"u-{name}", True, True) for name in names[:20]}
    world.source._look()
    assert world.asked == 1 and len(world.capturing.expected) == 30
