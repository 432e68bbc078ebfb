"""Pages at ztunnel's places, in its words; and who may change something by them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent import config
from agent.admin.server import Request, Response
from agent.enroll.enrolled_pod import EnrolledPod
from agent.enroll.wish import PodKey, Wish
from agent.identity.keeper import Keeper
from agent.log_levels import Levels
from agent.model.address import SocketAddress, parse_ip
from agent.model.identity import Identity
from agent.pages.config_dump import ConfigDumpPage
from agent.pages.log_level import LoggingPage
from agent.pages.pprof import INSTEAD, pprof_page
from agent.pages.quit import ShutdownPage
from agent.pages.root_only import RootOnly
from agent.state.apply import Batch
from agent.state.snapshot import Snapshot
from agent.state.store import Store
from redirect.place import Place
from tests.support import mesh
from tests.support.dumped import connections
from tests.support.keeper import Signer

HERE = SocketAddress.parse("127.0.0.1:15000")
ASKING = SocketAddress.parse("127.0.0.1:40000")


def ask(page: Any, method: str = "POST", query: Mapping[str, str] = {}, **headers: str) -> Response:
    request = Request(method, "/", query, headers, ends=(ASKING, HERE))
    response = asyncio.run(page(request))
    assert isinstance(response, Response)
    return response


# -- /logging


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Levels]:
    """What workers were told; this process logs on as it did."""
    monkeypatch.setattr("agent.pages.log_level.put_in_force", lambda *_: None)
    return []


def logging_page(told: list[Levels]) -> LoggingPage:
    return LoggingPage(Levels(), told.append, Levels())


def test_the_level_is_shown_and_set_as_ztunnel_does(told: list[Levels]) -> None:
    page = logging_page(told)
    assert ask(page).body == b"current log level is info\n"
    assert ask(page, query={"level": ""}).body == b"current log level is info\n"
    assert not told
    assert ask(page, query={"level": "debug"}).body == b"current log level is debug\n"
    assert ask(page, query={"level": "access=off"}).body == b"current log level is debug,access=off\n"
    assert list(map(str, told)) == ["debug", "debug,access=off"]
    assert ask(page, query={"level": "info", "reset": ""}).body == b"current log level is info\n"
    assert told[-1] == Levels()


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("GET", {}, 405),
        ("GET", {"level": "debug"}, 405),
        ("POST", {"level": "loud"}, 400),
        ("POST", {"lvl": "x"}, 400),
    ],
)
def test_what_is_no_order_is_answered_by_the_usage(
    told: list[Levels], method: str, query: dict[str, str], status: int
) -> None:
    response = ask(logging_page(told), method, query)
    assert response.status == status and b"usage: POST /logging" in response.body
    assert not told


# -- /quitquitquit, /debug/pprof


def test_quitquitquit_stops_when_it_is_posted() -> None:
    stop = asyncio.Event()
    page = ShutdownPage(stop)
    refused = ask(page, "GET")
    assert (refused.status, refused.body, stop.is_set()) == (405, b"", False)
    assert (ask(page).body, stop.is_set()) == (b"shutdown now\n", True)


@pytest.mark.parametrize("path", INSTEAD)
def test_there_is_no_profiler_and_it_is_said(path: str) -> None:
    response = asyncio.run(pprof_page(Request("GET", path)))
    assert response.status == 501 and b"no profiler" in response.body


# -- who asks


async def changed(_: Request) -> Response:
    return Response(b"done")


def guarded(owner: int | OSError | None) -> RootOnly:
    def owner_of(client: SocketAddress, server: SocketAddress) -> int | None:
        assert (client, server) == (ASKING, HERE)
        if isinstance(owner, OSError):
            raise owner
        return owner

    return RootOnly(changed, owner_of)


@pytest.mark.parametrize(
    ("owner", "says"),
    [
        (1000, b"uid 1000 asks"),
        (65534, b"uid 65534 asks"),
        (None, b"not on this node"),
        (OSError(2, "No such file or directory"), b"use agent.sock"),
    ],
)
def test_only_root_of_the_node_changes_something(owner: int | OSError | None, says: bytes) -> None:
    response = ask(guarded(owner))
    assert response.status == 403 and says in response.body
    assert ask(guarded(owner), "GET").body == b"done", "the page itself says what reading is"


def test_root_changes_something() -> None:
    assert ask(guarded(0)).body == b"done"


def test_a_page_in_a_browser_does_not() -> None:
    """By way of a forwarded port its requests are root's."""
    for origin in ("http://localhost:15000", "https://example.com", "null"):
        response = ask(guarded(0), origin=origin)
        assert response.status == 403 and b"browser" in response.body


def test_on_the_unix_socket_nobody_else_comes() -> None:
    assert asyncio.run(guarded(1000)(Request("POST", "/"))).body == b"done"


# -- /config_dump


async def dumped() -> tuple[dict[str, Any], str, Keeper]:
    store = Store(Snapshot(node="n1"))
    store.apply(
        Batch(addresses=(mesh.workload("client", "10.77.1.11", namespace="demo"), mesh.service("web")))
    )
    clock = SimpleNamespace(now=time.time())
    keeper = Keeper(
        Signer(clock),  # type: ignore[arg-type]
        clock=time.time,
        rng=Random(1),
        on_credentials=lambda *_: None,
        on_forget=lambda _: None,
    )
    client, other = (Identity("cluster.local", "demo", name) for name in ("client", "other"))
    keeper.set_in_use([client])
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(keeper.run())
        await keeper.obtain(client)
        running.cancel()
    keeper.set_in_use([client, other])
    place = Place(7, "veth7", (parse_ip("10.77.1.11"),), mac=bytes(6), hops=())
    pods = {
        name: EnrolledPod(PodKey("demo", name), name, "cluster.local", place) for name in ("client", "ill")
    }
    wishes = {
        key: Wish(key, mesh_where(), uid=f"uid-{key.name}") for key in map(key_of, ("client", "ill", "late"))
    }
    captures = SimpleNamespace(
        pods={pod.key: pod for pod in pods.values()},
        wishes=wishes,
        troubles=(SimpleNamespace(pod=PodKey("demo", "ill")),),
    )

    async def ask_all(what: str) -> list[object]:
        assert what == "connections"
        return [connections()[:1], None, connections()[1:]]

    page = ConfigDumpPage(
        settings=config.build({"node": "n1"}),
        store=store,
        captures=captures,  # type: ignore[arg-type]
        keeper=keeper,
        crew=SimpleNamespace(ask_all=ask_all),  # type: ignore[arg-type]
    )
    response = await page(Request("GET", "/config_dump"))
    assert response.content_type == "application/json"
    return json.loads(response.body), response.body.decode(), keeper


def key_of(name: str) -> PodKey:
    return PodKey("demo", name)


def mesh_where() -> Any:
    return SimpleNamespace()


def test_the_dump_has_what_every_part_holds() -> None:
    found, text, keeper = asyncio.run(dumped())
    assert list(found) == [
        "workloads",
        "services",
        "policies",
        "stagedServices",
        "staticConfig",
        "version",
        "config",
        "ztun",
        "certificates",
        "workloadState",
    ]
    assert [each["name"] for each in found["workloads"] + found["services"]] == ["client", "web"]
    states = {uid: (each["state"], each["info"]["name"]) for uid, each in found["workloadState"].items()}
    assert states == {
        "uid-client": ("Up", "client"),
        "uid-ill": ("Pending", "ill"),
        "uid-late": ("Pending", "late"),
    }
    assert len(found["workloadState"]["uid-client"]["connections"]["outbound"]) == 2, "of two workers"
    states = {each["identity"].rpartition("/")[2]: each["state"] for each in found["certificates"]}
    assert states == {"client": "Available", "other": "Initializing"}
    issued = keeper.get(Identity("cluster.local", "demo", "client"))
    assert issued is not None
    pem = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert not [line for line in pem.splitlines() if line in text] and "PRIVATE" not in text
