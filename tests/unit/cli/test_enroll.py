"""Several pods in one `ztun enroll` and `unenroll`, against an agent that answers as told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.admin.server import BadRequest, HttpServer, Request, Response, as_json
from agent.cli.enroll import enroll, unenroll


class Agent:
    """A pod whose name begins with `bad` is refused, with `late` waits; all others are served."""

    def __init__(self, directory: Path, at_once: int = 1) -> None:
        self.directory = directory
        self.asked: list[dict[str, object]] = []
        self.loop = asyncio.new_event_loop()
        self.meeting = asyncio.Barrier(at_once)
        self.ready = threading.Event()
        self.ended: asyncio.Event | None = None
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.serve(),))

    async def serve(self) -> None:
        server, self.ended = HttpServer(), asyncio.Event()
        await server.serve_unix(
            self.directory / "agent.sock",
            {("POST", "/enroll"): self.answer, ("POST", "/unenroll"): self.answer},
        )
        self.ready.set()
        await self.ended.wait()
        await server.close()

    async def answer(self, request: Request) -> Response:
        body = request.json()
        self.asked.append(body)
        await self.meeting.wait()
        name = str(body["name"])
        if name.startswith("bad"):
            raise BadRequest(f"pod demo/{name}: it is no pod of mine")
        if name.startswith("late"):
            return as_json({"waiting": f"pod demo/{name}: not announced"}, 202)
        return as_json(
            {
                "identity": f"spiffe://d/{name}",
                "ifname": f"veth-{name}",
                "addresses": ["10.0.0.1"],
                "notes": ["n"],
            }
        )

    def __enter__(self) -> Agent:
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.ended is not None
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(tmp_path) as running:
        yield running


def run(agent: Agent, *pods: str, more: tuple[str, ...] = ()) -> Result:
    places = [part for pod in pods for part in ("--netns", f"/run/netns/{pod}")]
    names = [f"demo/{pod}" for pod in pods]
    arguments = [*names, *places, "--run-dir", str(agent.directory), "--wait", "0", *more]
    return CliRunner().invoke(enroll, arguments)


def test_each_pod_has_its_own_line_in_the_order_of_the_call(agent: Agent) -> None:
    result = run(agent, "b", "a")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "enrolled demo/b as spiffe://d/b on veth-b (10.0.0.1)\nnote: n\n"
        "enrolled demo/a as spiffe://d/a on veth-a (10.0.0.1)\nnote: n\n"
    )
    assert {(body["name"], body["netns"]) for body in agent.asked} == {
        ("a", "/run/netns/a"),
        ("b", "/run/netns/b"),
    }


@pytest.mark.parametrize(
    ("pods", "status"),
    [(["a", "late"], 3), (["late", "bad"], 1), (["bad", "a"], 1), (["bad", "late", "a"], 1), (["bad"], 1)],
)
def test_one_that_fails_stops_no_other_and_shows_in_the_status(
    agent: Agent, pods: list[str], status: int
) -> None:
    result = run(agent, *pods)
    assert result.exit_code == status
    assert {body["name"] for body in agent.asked} == set(pods)
    assert ("enrolled demo/a" in result.stdout) is ("a" in pods)
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["ztun"] * len(set(pods) - {"a"})
    for pod in set(pods) - {"a"}:
        assert f"pod demo/{pod}: " in result.stderr


def test_pods_are_asked_for_at_once(tmp_path: Path) -> None:
    """Each request is answered only when all three are there: one after the other they would wait for ever."""
    with Agent(tmp_path, at_once=3) as agent:
        assert run(agent, "a", "b", "c").exit_code == 0


def test_as_json_it_is_one_row_for_each_pod(agent: Agent) -> None:
    result = run(agent, "a", "bad", "late", more=("-o", "json"))
    assert result.exit_code == 1
    rows = json.loads(result.stdout)["pods"]
    assert [(row["pod"], row["state"], row["interface"]) for row in rows] == [
        ("demo/a", "served", "veth-a"),
        ("demo/bad", "refused", ""),
        ("demo/late", "waiting", ""),
    ]
    assert "no pod of mine" in rows[1]["reason"] and len({frozenset(row) for row in rows}) == 1


@pytest.mark.parametrize(
    "flag, asked", [((), None), (("--honest-connect",), True), (("--no-honest-connect",), False)]
)
def test_whether_connects_are_honest_is_asked_for_each(
    agent: Agent, flag: tuple[str, ...], asked: bool | None
) -> None:
    assert run(agent, "a", "b", more=flag).exit_code == 0
    assert [body.get("honest_connect") for body in agent.asked] == [asked, asked]


def test_unenroll_of_several(agent: Agent) -> None:
    result = CliRunner().invoke(unenroll, ["demo/a", "demo/bad", "demo/b", "--run-dir", str(agent.directory)])
    assert (result.exit_code, result.stdout) == (1, "un-enrolled demo/a\nun-enrolled demo/b\n")
    assert result.stderr == "ztun: pod demo/bad: it is no pod of mine\n"


def test_a_path_is_that_of_the_command_not_of_the_agent(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(enroll, ["demo/a", "--netns", "run/a", "--run-dir", str(agent.directory)])
    assert result.exit_code == 0, result.stderr
    assert [body["netns"] for body in agent.asked] == [str(tmp_path / "run/a")]


def test_why_a_pod_waits_is_said_once(agent: Agent) -> None:
    result = run(agent, "late", more=("--wait", "2"))
    assert result.exit_code == 3
    assert result.stderr == (
        "ztun: pod demo/late: not announced; waiting for 2 s\n"
        "ztun: demo/late still waits, for the same reason; waited for 2 s\n"
    )
