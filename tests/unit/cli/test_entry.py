"""The command that starts an agent: what is plain needs no click, the rest is click's to read and to refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agent import config
from agent.cli.agent import agent
from agent.cli.entry import plain_flags

STARTED = """
import json, os, sys
from agent.cli import entry

def execv(path, command):
    options = json.loads(command[command.index("--options") + 1])
    notes = json.loads(command[command.index("--notes") + 1])
    dear = [name for name in ("click", "difflib", "logging", "subprocess") if name in sys.modules]
    told = {"options": options, "notes": notes, "dear": dear}
    print(json.dumps(told | {"grpc": os.environ.get("GRPC_VERBOSITY")}))
    os._exit(0)

os.execv = execv
sys.argv = ["ztun", *sys.argv[1:]]
entry.main()
"""


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command up to the point where it would become the agent."""
    return subprocess.run(
        [sys.executable, "-c", STARTED, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--node", "a", "--root-cert=/x"),
        ("--node=a", "--node=b", "--workers", "3"),
        ("--xds-address=", "--node", ""),
        ("--drain-deadline-s=-1",),
        ("--node-metadata", '{"A": "b=c"}'),
    ],
)
def test_plain_flags_are_read_as_click_reads_them(arguments: tuple[str, ...]) -> None:
    given = agent.make_context("agent", list(arguments)).params
    assert plain_flags(arguments) == {name: value for name, value in given.items() if value is not None}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("a",),
        ("--",),
        ("--node",),
        ("--node", "--workers", "3"),
        ("--no-such", "x"),
        ("--root_cert", "/x"),
        ("node", "a"),
        ("--node", "a", "-h"),
    ],
)
def test_what_is_not_plain_is_left_to_click(arguments: tuple[str, ...]) -> None:
    assert plain_flags(arguments) is None


def test_an_agent_is_started_without_what_only_commands_need() -> None:
    done = started("agent", "--node", "a", "--root-cert", "/x", "--workers=3")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["dear"], told["grpc"]) == ([], "NONE")
    assert config.build(told["options"]) == config.from_environment(
        {"node": "a", "root_cert": "/x", "workers": "3"}
    )


def test_variables_that_are_no_options_are_for_the_agents_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUN_WORKER", "3")
    done = started("agent", "--node", "a", "--root-cert", "/x")
    assert done.returncode == 0, done.stderr
    assert [note for note in json.loads(done.stdout)["notes"] if "ZTUN_WORKER " in note] == [
        "variable ZTUN_WORKER is no option of the agent and has no effect: is ZTUN_WORKERS meant?"
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--root-cert", "/x"), "--node is missing"),
        (("--node", "a"), "--root-cert is missing"),
        (("--node", "a", "--root-cert", "/x", "--workers", "many"), "--workers: 'many' cannot be used"),
        (("--node",), "Option '--node' requires an argument"),
    ],
)
def test_a_start_that_cannot_be_is_refused_as_every_wrong_call(arguments: tuple[str, ...], says: str) -> None:
    done = started("agent", *arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
