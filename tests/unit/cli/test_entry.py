"""The command that starts an agent: what is plain needs no click, the rest is click's to read and to refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import config, start
from agent.cli import entry
from agent.cli.agent import agent
from agent.given_options import plain_flags
from redirect import child

STARTED = """
import json, os, sys
before = set(sys.modules)
from agent.cli import entry

def execv(path, command):
    loaded = sorted(sys.modules.keys() - before)
    print(json.dumps({"command": command, "loaded": loaded, "grpc": os.environ["GRPC_VERBOSITY"]}))
    os._exit(0)

os.execv = execv
sys.argv = ["ztun", *sys.argv[1:]]
entry.main()
"""


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command up to the point where it would become the agent's interpreter."""
    return subprocess.run(
        [sys.executable, "-c", STARTED, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


CLOSED = """
import os, sys
from agent.cli import entry

entry.keep_standard_streams()
print("to nobody", flush=True)
print(os.open("/", os.O_RDONLY), [os.get_inheritable(fd) for fd in range(3)], file=sys.stderr)
"""


def test_a_stream_that_is_closed_leads_nowhere_and_its_number_is_taken() -> None:
    command = ["sh", "-c", 'exec "$@" >&- <&-', "sh", sys.executable, "-c", CLOSED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "3 [True, True, True]\n")


def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command to its end, in every interpreter that it has to go through."""
    command = [*child.command("agent.cli.entry"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


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
    with pytest.raises(config.ConfigError):
        plain_flags(arguments)


def test_an_agent_is_begun_before_the_command_is_loaded() -> None:
    given = ["--node", "a", "--root-cert", "/x", "--workers=3"]
    done = started("agent", *given)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    ours = {name for name in told["loaded"] if name.split(".")[0] in ("agent", "redirect")}
    assert ours == {"agent", "agent.cli", "agent.cli.entry", "agent.dataclass_code", "agent.form"}
    assert "click" not in told["loaded"] and told["grpc"] == "NONE"
    begun = child.command("agent.start")
    assert told["command"][: len(begun)] == begun
    order = start.told(told["command"][len(begun) :])
    settings, shown = order.settings, order.shown
    assert settings == config.from_environment({"node": "a", "root_cert": "/x", "workers": "3"})
    assert shown[-len(given) - 1 :] == ["agent", *given] and shown[0] == sys.executable


def test_what_another_command_has_read_is_taken_as_it_was_read() -> None:
    settings = config.build({"node": "a", "workers": "2"})
    parts = {"options": config.as_texts(settings), "shown": ["ztun", "proxy"], "notes": ["a note"]}
    arguments = [word for name, part in parts.items() for word in (f"--{name}", json.dumps(part))]
    assert start.told(arguments) == start.Told(settings, ["ztun", "proxy"], ["a note"])
    stands_by = start.told([*arguments, "--stands-by", "[7, 8]"])
    assert stands_by == start.Told(settings, ["ztun", "proxy"], ["a note"], (7, 8))
    taker = {"pid": 9, "began": 10, "limit_s": 30.0}
    told = start.told([*arguments, "--stands-by", "[7, 8]", "--taker", json.dumps(taker)])
    assert told == start.Told(settings, ["ztun", "proxy"], ["a note"], (7, 8), taker)


def test_variables_that_are_no_options_are_for_the_agents_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUN_WORKER", "3")
    notes = start.told(["--given", "4", "ztun", "agent", "--node", "a", "--root-cert", "/x"]).notes
    assert [note for note in notes if "ZTUN_WORKER " in note] == [
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
    done = refused("agent", *arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_help_is_clicks() -> None:
    done = refused("agent", "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: ztun agent"), done.stderr


def test_the_command_runs_the_modules_that_lie_beside_it() -> None:
    assert Path(entry.CHILD).samefile(child.__file__)
