"""Commands as a user runs them: one line on failure, the right exit status, help without side effects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from agent.cli import main, reference
from agent.cli.completion import VARIABLE
from agent.cli.main import COMMANDS
from tests.support.commands import every_command


def ztun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


Ztun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ztun:
    """The same in this process: to start one takes a second, and most of what is asked here needs none."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["ztun", *arguments])
        status = 0
        try:
            main.main()
        except SystemExit as end:
            assert isinstance(end.code, int)
            status = end.code
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)

    return call


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["enroll", "web"], 2, "'web' is not NAMESPACE/NAME"),
        (["enroll", "a/b/c", "--pid", "1"], 2, "not NAMESPACE/NAME"),
        (["enroll", "demo/web"], 2, "--netns PATH, --pid PID or --ifname IF"),
        (["enroll", "demo/web", "--pid", "1", "--ifname", "x"], 2, "once"),
        (["enroll", "demo/web", "--pid", "1", "--pid", "2"], 2, "once"),
        (["enroll", "demo/a", "demo/b", "--pid", "1"], 2, "2 pods are named, and --pid is given 1 time: "),
        (["enroll", "demo/a", "demo/a", "--pid", "1", "--pid", "2"], 2, "demo/a is named twice"),
        (["enroll"], 2, "Missing argument 'NAMESPACE/NAME...'"),
        (
            ["enroll", "demo/a", "demo/b", "--pid", "1", "--pid", "2", "--run-dir", "/nonexistent"],
            4,
            "no agent",
        ),
        (["unenroll", "demo/a", "b"], 2, "'b' is not NAMESPACE/NAME"),
        (["enroll", "demo/web", "--pid", "1", "--run-dir", "/nonexistent"], 4, "no agent answers"),
        (["unenroll", "demo/web", "--run-dir", "/nonexistent"], 4, "no agent answers"),
        (["agent"], 2, "--node is missing"),
        (["agent", "--node", "a"], 2, "--root-cert is missing"),
        (["pod-manifest", "Demo/web", "--pid", "1"], 2, "the namespace 'Demo' is not a name"),
        (["pod-manifest", "demo/a_b", "--pid", "1"], 2, "the name 'a_b' is not a name"),
        (["pod-manifest", "demo/a", "--pid", "1", "--service-account", "A"], 2, "--service-account 'A' is"),
        (["agent", "--node", "a", "--workers", "many"], 2, "--workers"),
        (["agent", "--node", "a", "--local-path", "fast"], 2, "hbone or host or handover"),
        (["control-plane"], 2, "--manifests is missing"),
        (["control-plane", "--manifests", "/nonexistent/m"], 2, "make it: mkdir -p /nonexistent/m"),
        (["control-plane", "--manifests", "/", "--service-cidr", "10.0.0.0/99"], 2, "--service-cidr"),
        (["maps", "--run-dir", "/nonexistent"], 1, "no pinned maps"),
        (["audit", "--run-dir", "/nonexistent"], 1, "instance ztun has no pinned maps under /nonexistent"),
        (["completion"], 2, "Choose from: bash, zsh, fish (try"),
        (["lab", "status", "--name", "no-such-lab"], 1, "not up"),
        (["pod-manifest", "demo/a", "--pid", "1", "--label", "a b=c"], 2, "'a b' is no key of a label"),
        (["pod-manifest", "demo/a", "--pid", "1", "--label", "/a=c"], 2, "'/a' is no key of a label"),
        (["pod-manifest", "demo/a", "--pid", "1", "--label", "a=-"], 2, "'-' is no value of a label"),
        (["control-plane", "--manifests", "/tmp", "--cluster-id", ""], 2, "--cluster-id': '' cannot be used"),
        (["pod-manifest", "web", "--pid", "1"], 2, "'web' is not NAMESPACE/NAME"),
        (["control-plane", "--manifests", "/", "--listen", "here"], 2, "'here' is not HOST:PORT"),
        (["control-plane", "--manifests", "/", "--metrics-address", "x"], 2, "'x' is not HOST:PORT"),
        (
            ["control-plane", "--manifests", "/", "--server-name", "a b"],
            2,
            "neither the name of a host nor an IP",
        ),
        (["lab", "down", "--name", "../x"], 1, "want lower-case letters"),
        (["pod-manifest", "demo/web"], 2, "--netns PATH, --pid PID or --ifname IF"),
        (["pod-manifest", "demo/web", "--netns", "/nonexistent"], 1, "/nonexistent"),
        (["pod-manifest", "demo/web", "--pid", "1", "--out", "/tmp/web"], 2, "its name must end in .yaml"),
        (["pod-manifest", "demo/web", "--pid", "1", "--out", "/tmp/.w.yaml"], 2, "would not be read"),
        (["no-such-command"], 2, "No such command"),
        (["stauts"], 2, "Did you mean 'status'?"),
        (["lab", "stauts"], 2, "Did you mean 'status'?"),
        (["maps", "dmup"], 2, "Did you mean 'dump'?"),
        (["control-plane", "tokne"], 2, "Did you mean 'token'?"),
        (["status", "--instnace", "x"], 2, "Did you mean '--instance'?"),
        (["completion", "bahs"], 2, "'bash', 'zsh', 'fish'"),
        (["status", "--lab", "ztunlab"], 2, "is not NAME/NODE"),
        (["status", "--lab", "no-such-lab/node-a"], 2, "lab no-such-lab has no node node-a"),
        (["tunnels", "--lab", "a/b", "--instance", "c"], 2, "--lab names the agent already"),
        (["status", "--instance", "../../etc"], 2, "it takes 1 to 12 letters"),
        (["uninstall", "--instance", ""], 2, "it takes 1 to 12 letters"),
        (["control-plane", "status", "--lab", "no-such-lab"], 2, "lab no-such-lab has no control plane"),
        (["control-plane", "status", "--lab", "a", "--state-dir", "/b"], 2, "leave --state-dir out"),
        (["connections", "--run-dir", "/nonexistent"], 4, "no agent answers"),
        (["lab", "up", "--name", "a-name-too-long"], 1, "10 characters at most"),
        (["status", "--wait", "nan"], 2, "'nan' is no number of seconds"),
        (["enroll", "demo/web", "--pid", "1", "--wait", "soon"], 2, "'soon' is no number of seconds"),
        (["maps", "watch", "stats", "--interval", "nan"], 2, "'nan' is no number of seconds"),
        (["control-plane", "--state-dir", "/a", "status"], 2, "--state-dir before status says how to serve"),
        (["control-plane", "--manifests", "/", "token", "--node", "a"], 2, "--manifests before token"),
        (["control-plane", "--manifests", "/", "--agents", "a"], 2, "--agents are for --kubernetes"),
        (["control-plane", "--kubernetes"], 2, "is known: --kubeconfig is not given, and this"),
    ],
)
def test_a_wrong_call_is_one_line_and_a_status(
    here: Ztun, arguments: list[str], status: int, says: str
) -> None:
    done = here(*arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_dead_agent_is_exit_4_in_every_form(tmp_path: Path) -> None:
    plain = ztun("status", "--run-dir", str(tmp_path))
    assert plain.returncode == 4
    assert plain.stdout.startswith("DEAD ")
    machine = ztun("status", "--run-dir", str(tmp_path), "-o", "json")
    assert machine.returncode == 4
    answer = json.loads(machine.stdout)
    # The shape of an agent that lives: a script may read any field of it.
    assert (answer["state"], answer["pods"], answer["services"]) == ("DEAD", [], {})


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`ztun` by a user who may nothing; it becomes one when its code is loaded, which may lie where only root reads."""
    command = f"import sys; sys.argv = {['ztun', *arguments]!r}; import os; from agent.cli import main; "
    command += f"main.ztun.get_command(None, {arguments[0]!r}); os.setuid(65534); main.main()"
    return subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)


def test_who_may_not_ask_is_told_so_and_not_that_the_agent_is_dead(tmp_path: Path) -> None:
    (tmp_path / "agent.sock").touch()
    tmp_path.chmod(0o700)
    for command in ("status", "connections"):
        done = as_nobody(command, "--run-dir", str(tmp_path))
        assert (done.returncode, done.stdout) == (1, "")
        assert "may be opened by root only" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["maps"], "run this as root"),
        (["uninstall"], "run this as root"),
        (["agent", "--node", "x", "--root-cert", "/x"], "run it as root"),
        (["pod-manifest", "demo/web", "--pid", "1"], "run this as root"),
        (
            ["cni", "uninstall", "--conf-dir", "{dir}", "--bin-dir", "{dir}"],
            "{dir} may be changed by root only",
        ),
        (
            ["control-plane", "status", "--state-dir", "{dir}/shut/x"],
            "{dir}/shut/x may be opened by root only",
        ),
        (["control-plane", "token", "--node", "x", "--state-dir", "{dir}"], "Permission denied"),
        (["control-plane", "--manifests", "/", "--state-dir", "{dir}"], "Permission denied"),
    ],
)
def test_who_is_not_root_is_told_so_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "shut").mkdir(mode=0o700)
    done = as_nobody(*(part.format(dir=tmp_path) for part in arguments))
    assert done.returncode == 1 and says.format(dir=tmp_path) in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["lab"]])
def test_without_a_command_it_is_the_help(here: Ztun, arguments: list[str]) -> None:
    done = here(*arguments)
    assert done.returncode == 2 and done.stderr.startswith("Usage: ")


def test_a_token_for_no_control_plane_is_said_to_be_one(here: Ztun, tmp_path: Path) -> None:
    place = tmp_path / "nobody's"
    done = here("control-plane", "token", "--node", "x", "--state-dir", str(place))
    assert done.returncode == 0 and done.stdout == f"{place}/tokens/x\n"
    assert done.stderr.startswith(f"note: no control plane has ever served from {place} (--state-dir)")
    (place / "root.pem").touch()
    assert here("control-plane", "token", "--node", "x", "--state-dir", str(place)).stderr == ""


def test_a_wrong_call_says_whose_help_to_read(here: Ztun) -> None:
    assert here("help").stderr.endswith("ztun --help`)\n")
    assert here("lab", "exec").stderr.endswith("ztun lab exec --help`)\n")


def test_an_agent_without_a_place_for_its_sockets_says_so() -> None:
    done = ztun("agent", "--node", "a", "--root-cert", "/x", "--run-dir", "/proc/x")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "--run-dir: cannot make the directory /proc/x: No such file or directory" in done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(here: Ztun, command: str) -> None:
    done = here(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_help_is_whole_sentences_for_every_command_and_option() -> None:
    for command in every_command(main.ztun):
        context = click.Context(command)
        _, _, listed = command.get_help(context).partition("\n")
        cut = [line for line in listed.splitlines() if line.endswith("...")]
        assert not cut, f"{command.name} --help does not finish what it says: {cut}"
        for option in command.params:
            if isinstance(option, click.Option):
                text = (option.help or "").partition("  [")[0].partition("  (")[0]
                assert text[:1].isupper() or text.startswith("HOST"), (
                    f"{command.name} {option.name}: {text!r}"
                )
                assert text.endswith("."), f"{command.name} {option.name}: {text!r}"
                shown = option.make_metavar(context)
                assert shown not in ("TEXT", "INTEGER") or command.name == "agent", (
                    f"{command.name} {option.name}: {shown} does not say what it takes"
                )


def test_the_agents_help_lists_every_option_with_its_variable(here: Ztun) -> None:
    text = here("agent", "--help").stdout
    assert "--mesh-cidrs" in text
    assert "ZTUN_MESH_CIDRS" in text


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["connections", "--run-dir", "/nonexistent"], 4, "no agent answers"),
        (["enroll", "demo/web", "--pid", "1", "--run-dir", "/nonexistent"], 4, "no agent answers"),
        (["enroll", "demo/web"], 2, "say where the pod is"),
        (["maps", "--run-dir", "/nonexistent"], 1, "no pinned maps"),
        (["maps", "dump", "--run-dir", "/nonexistent"], 1, "no pinned maps"),
        (["lab", "status", "--name", "no-such-lab"], 1, "not up"),
    ],
)
def test_a_failure_is_one_object_for_those_who_read_json(
    here: Ztun, arguments: list[str], status: int, says: str
) -> None:
    done = here(*arguments, "-o", "json")
    assert done.returncode == status
    answer = json.loads(done.stdout)
    assert answer.keys() == {"error"} and says in answer["error"]
    assert done.stderr.startswith(f"ztun: {answer['error']}"), "and the same line as always"


@pytest.mark.parametrize(
    ("shell", "marks"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef ztun"), ("fish", "complete --no-files")],
)
def test_completion_is_printed_for_every_shell(here: Ztun, shell: str, marks: str) -> None:
    done = here("completion", shell)
    assert done.returncode == 0, done.stderr
    assert marks in done.stdout and VARIABLE in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ztun st", {"status"}),
        ("ztun maps d", {"drops", "dump"}),
        ("ztun maps dump po", {"pods"}),
        ("ztun enroll --ne", {"--netns"}),
        ("ztun status -o ", {"line", "table", "json"}),
    ],
)
def test_what_bash_completes(words: str, expected: set[str]) -> None:
    """As bash does it: the printed script, sourced, and its function called for the words of a line."""
    line = words.split(" ")
    script = 'eval "$(ztun completion bash)"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
    script += '_ztun_completion ztun; printf "%s\\n" "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", *line],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert set(done.stdout.split()) == expected, done.stderr


def test_the_reference_is_what_the_commands_say() -> None:
    path = Path(__file__).parents[3] / "docs" / "CLI.md"
    assert path.read_text() == reference.render(), "docs/CLI.md is stale: run scripts/gen-cli"


def printing_into(stdout: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["status", "-o", "json", "--run-dir", "/nonexistent"]])
def test_a_reader_that_has_had_enough_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = printing_into(writing, arguments)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["status", "-o", "json", "--run-dir", "/nonexistent"]])
def test_output_that_cannot_be_written_is_one_line_and_a_failure(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = printing_into(full.fileno(), arguments)
    assert (done.returncode, done.stderr) == (1, "ztun: stdout cannot be written: No space left on device\n")


def test_a_dead_agent_is_not_said_to_have_no_pods(here: Ztun) -> None:
    said = here("status", "-o", "table", "--run-dir", "/nonexistent").stdout
    assert said.startswith("DEAD ") and said.count("\n") == 1
