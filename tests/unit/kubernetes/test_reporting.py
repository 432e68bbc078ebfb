"""What the API is told of each pod: the annotation, when it changes and no oftener, and Events for what stands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any

import pytest

from agent.enroll.progress import Progress
from agent.enroll.wish import PodKey
from agent.kubernetes import reporter as module
from agent.kubernetes.objects import REDIRECTION, Pod, pod_of
from agent.kubernetes.reporter import Reporter
from tests.support import kube
from tests.support.kube import FakeApi
from tests.support.kube_watch import Api

KEY = PodKey("demo", "web")
SERVED, CLOSED = Progress("", True, True), Progress("", True, False)


class World:
    """A reporter and what it looks at; `hear` reads the pods as a watch would."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.pods: dict[PodKey, Pod] = {}
        self.found: dict[PodKey, Progress] = {}
        self.wanted: set[str] | None = set()
        self.reporter = Reporter(
            "n1", lambda: api.access, lambda: self.pods, lambda: self.found, lambda: self.wanted, Random(1)
        )

    def hear(self) -> None:
        self.pods = {pod.key: pod for pod in map(pod_of, self.api.all("pods"))}
        self.reporter.wake()

    def says(self, name: str = "web") -> str | None:
        meta = self.api.get("pods", name, "demo")["metadata"]
        found: Mapping[str, str] = meta.get("annotations") or {}
        return found.get(REDIRECTION)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)
                self.hear()


def run(world: World, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.reporter.run())
            await story()
            task.cancel()

    asyncio.run(both())


def writes(api: Any, method: str = "PATCH") -> list[str]:
    return [line for line in api.requests if line.startswith(method)]


def test_the_annotation_follows_the_capture(api: Api) -> None:
    api.create(kube.pod("web"))
    world = World(api)

    async def story() -> None:
        world.hear()
        for state, value in (
            (CLOSED, "pending"),
            (SERVED, "enabled"),
            (Progress(), None),
            (SERVED, "enabled"),
        ):
            world.found = {KEY: state}
            await world.until(lambda value=value: world.says() == value)

    run(world, story)
    assert world.reporter.problem is None


def test_what_is_written_already_is_not_written_again(fake: FakeApi) -> None:
    fake.create(kube.pod("web"))
    fake.create(kube.pod("other"))
    world = World(fake)

    async def story() -> None:
        world.hear()
        world.found = {KEY: SERVED}
        world.reporter.wake()
        async with asyncio.timeout(30):
            while world.says() != "enabled":  # noqa: ASYNC110 - a server in a thread
                await asyncio.sleep(0.005)
        for hear in (world.reporter.wake, world.hear):
            # Before the watch tells of it, and after.
            for _ in range(20):
                hear()
                await asyncio.sleep(0.005)

    run(world, story)
    assert len(writes(fake)) == 1


@pytest.mark.parametrize("found", ["enabled", "pending", "disabled", "of-somebody-else"])
def test_whatever_stands_there_is_put_right(
    fake: FakeApi, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.create(kube.pod("web", annotations={REDIRECTION: found, "mine": "stays"}))
    world = World(fake)

    async def story() -> None:
        world.hear()
        await world.until(lambda: world.says() is None)

    run(world, story)
    assert fake.get("pods", "web", "demo")["metadata"]["annotations"] == {"mine": "stays"}
    assert ("somebody else wrote" in caplog.text) == (found not in ("enabled", "pending"))


def test_one_in_the_mesh_stays_so_for_peers_until_it_is_served_again(fake: FakeApi) -> None:
    fake.create(kube.pod("web", annotations={REDIRECTION: "enabled"}))
    fake.create(kube.pod("other"))
    world = World(fake)
    world.wanted = None

    async def other_says(value: str) -> None:
        """Then the reporter has looked at both."""
        world.found = {**world.found, PodKey("demo", "other"): SERVED if value == "enabled" else CLOSED}
        await world.until(lambda: world.says("other") == value)

    async def story() -> None:
        world.hear()
        world.wanted = {pod.uid for pod in world.pods.values()}
        for state in ({}, {KEY: Progress()}, {KEY: CLOSED}):
            world.found = dict(state)
            await other_says("pending")
            assert world.says() == "enabled"
            fake.delete("pods", "other", "demo")
            fake.create(kube.pod("other"))
            world.hear()
        world.wanted = set()
        world.found = {}
        await world.until(lambda: world.says() is None)

    run(world, story)


def test_nothing_is_taken_away_before_it_is_known_who_is_wanted(fake: FakeApi) -> None:
    fake.create(kube.pod("web", annotations={REDIRECTION: "enabled"}))
    world = World(fake)
    world.wanted = None

    async def story() -> None:
        for _ in range(20):
            world.hear()
            await asyncio.sleep(0.005)
        assert not writes(fake) and world.says() == "enabled"
        world.wanted = set()
        await world.until(lambda: world.says() is None)

    run(world, story)


def test_a_conflict_is_tried_again_and_so_is_a_server_that_is_away(fake: FakeApi) -> None:
    fake.create(kube.pod("web"))
    fake.refuse(409, "PATCH", message="the object has been modified")
    fake.refuse(503, "PATCH", times=1)
    world = World(fake)
    world.found = {KEY: SERVED}

    async def story() -> None:
        world.hear()
        await world.until(lambda: world.says() == "enabled" and world.reporter.problem is None)

    run(world, story)
    assert len(writes(fake)) == 3


def test_another_pod_of_that_name_is_not_told_of(fake: FakeApi) -> None:
    fake.create(kube.pod("web"))
    world = World(fake)
    world.hear()
    before = dict(world.pods)
    fake.delete("pods", "web", "demo")
    fake.create(kube.pod("web"))
    world.pods, world.found = before, {KEY: SERVED}

    async def story() -> None:
        world.reporter.wake()
        await world.until_written()

    async def until_written() -> None:
        async with asyncio.timeout(30):
            while not writes(fake):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    world.until_written = until_written  # type: ignore[attr-defined]
    run(world, story)
    assert world.says() is None and world.reporter.problem is None


def test_progress_of_another_uid_is_not_this_pods(fake: FakeApi) -> None:
    fake.create(kube.pod("web", annotations={REDIRECTION: "enabled"}, uid="second"))
    world = World(fake)
    world.found = {KEY: Progress("first", True, True)}

    async def story() -> None:
        await world.until(lambda: world.says() is None)

    run(world, story)


def test_what_is_written_in_a_row_goes_over_one_connection_and_one_that_ends_is_made_anew(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"web{number}" for number in range(12)]
    for name in names:
        fake.create(kube.pod(name))
    world = World(fake)
    world.found = {PodKey("demo", name): SERVED for name in names}
    patched, prompt = fake.patched, set[int]()

    def breaking(*given: Any) -> Any:
        sock = world.reporter._connection._socket
        prompt.add(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) if sock else 0)
        if len(writes(fake)) == 5:
            fake.server.break_connections()
        return patched(*given)

    monkeypatch.setattr(fake, "patched", breaking)

    async def story() -> None:
        await world.until(lambda: all(world.says(name) == "enabled" for name in names))

    run(world, story)
    assert fake.server.accepted == 2 and len(writes(fake)) == len(names) + 1
    assert world.reporter.problem is None
    assert 0 not in prompt, "the body of a request waits until its head is acknowledged"
    assert world.reporter._connection._kept is None, "none is held while nothing is written"


def test_a_right_that_is_missing_is_named(fake: FakeApi) -> None:
    fake.create(kube.pod("web"))
    fake.refuse(403, "PATCH", times=1, message='User "a" cannot patch resource "pods/status"')
    world = World(fake)
    world.found = {KEY: SERVED}

    async def story() -> None:
        await world.until(lambda: world.reporter.problem is not None)
        assert "the verbs patch on pods/status" in str(world.reporter.problem)
        await world.until(lambda: world.says() == "enabled")

    run(world, story)


def test_events_that_are_forbidden_are_named_and_annotations_go_on(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STANDS_S", 0.0)
    for name in ("web", "other"):
        fake.create(kube.pod(name))
    fake.refuse(403, "POST", times=2, message='User "a" cannot create resource "events"')
    world = World(fake)
    world.found = {KEY: Progress("", True, False, "no certificate; is the CA up?")}

    async def story() -> None:
        await world.until(lambda: "the verbs create on events" in str(world.reporter.problem))
        world.found = {**world.found, PodKey("demo", "other"): SERVED}
        await world.until(lambda: world.says("other") == "enabled")
        await world.until(lambda: bool(fake.all("events")) and world.reporter.problem is None)

    run(world, story)


def test_a_trouble_that_stands_is_told_of_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STANDS_S", 0.2)
    api.create(kube.pod("web"))
    world = World(api)

    async def story() -> None:
        world.found = {KEY: Progress("", True, False, "no certificate; is the CA up?")}
        await world.until(lambda: bool(api.all("events")))  # type: ignore[attr-defined]
        for _ in range(30):
            await asyncio.sleep(0.01)
            world.hear()
        world.found = {KEY: Progress("", True, False, "another reason")}
        await world.until(lambda: len(api.all("events")) == 2)  # type: ignore[attr-defined]

    run(world, story)
    first, second = sorted(api.all("events"), key=lambda each: each["metadata"]["name"])  # type: ignore[attr-defined]
    assert first["message"] == "no certificate; is the CA up?" and second["message"] == "another reason"
    assert (first["type"], first["reason"], first["involvedObject"]["name"]) == (
        "Warning",
        "NotInMesh",
        "web",
    )
    assert first["source"] == {"component": "ztun", "host": "n1"} and first["involvedObject"]["uid"]


def test_a_trouble_that_passes_is_none(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STANDS_S", 3600.0)
    fake.create(kube.pod("web"))
    world = World(fake)

    async def story() -> None:
        world.found = {KEY: Progress("", True, False, "no certificate")}
        await world.until(lambda: world.says() == "pending")
        world.found = {KEY: SERVED}
        await world.until(lambda: world.says() == "enabled")

    run(world, story)
    assert not fake.all("events")


def test_each_wake_looks_at_the_pods_of_the_node_once(fake: FakeApi) -> None:
    """There may be hundreds, and it is woken several times for each that starts."""
    world = World(fake)
    looks: list[int] = []
    world.found = {KEY: SERVED}
    world.pods = {
        key: pod_of(kube.pod(key.name, uid=f"u-{key.name}", annotations={REDIRECTION: "enabled"}))
        for key in (KEY, *(PodKey("demo", f"p{number}") for number in range(20)))
    }
    world.found = dict.fromkeys(world.pods, SERVED)

    class Looking(dict[PodKey, Progress]):
        """Asked for each pod in a look."""

        def get(self, key: PodKey, *default: Any) -> Any:
            looks.append(1)
            return super().get(key, *default)

    world.found = Looking(world.found)

    async def story() -> None:
        for number in range(1, 4):
            world.reporter.wake()
            async with asyncio.timeout(30):
                while len(looks) < 2 * len(world.pods) * number:  # noqa: ASYNC110 - a look says nothing
                    await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            # What is to be annotated, what is wrong, what of it is to be told: thrice for each pod.
            assert len(looks) <= 3 * len(world.pods) * number, len(looks) / len(world.pods)

    run(world, story)


def test_what_could_not_be_written_and_need_not_be_is_no_problem_any_more(fake: FakeApi) -> None:
    fake.create(kube.pod("web"))
    fake.refuse(500, "PATCH", times=1000)
    world = World(fake)
    world.found = {KEY: SERVED}

    async def story() -> None:
        await world.until(lambda: world.reporter.problem is not None)
        world.found = {}
        await world.until(lambda: world.reporter.problem is None)

    run(world, story)
