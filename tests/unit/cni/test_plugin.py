"""The CNI plugin as a runtime runs it: a process with an environment and a standard input, and an agent."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cni import ztun_cni

PLUGIN = Path(ztun_cni.__file__)
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/x"}],
    "ips": [{"address": "10.0.0.1/24"}],
}
ENVIRONMENT = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_UID=u1;IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=demo;K8S_POD_INFRA_CONTAINER_ID=c1",
}


class Agent:
    """Answers every request with `status` and `body`; notes what was asked. `is_silent`: it never answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status, self.body = "200 OK", "{}"
        self.is_silent = False
        self.asked: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith(b"POST /cni HTTP/1.1\r\n")
            (length,) = (
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"Content-Length" in line
            )
            while len(body) < length:
                body += sock.recv(65536)
            self.asked.append(json.loads(body))
            if self.is_silent:
                self._held.append(sock)
                continue
            said = self.body.encode()
            sock.sendall(f"HTTP/1.1 {self.status}\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
            sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for sock in self._held:
            sock.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "agent.sock")
    yield made
    made.close()


def installed(directory: Path) -> Path:
    """The plugin as it lies on a node, but that its own log, for configurations that name none, is in the directory."""
    copy = directory.with_name(f"{directory.name}-ztun-cni")
    text = PLUGIN.read_text()
    assert text.count(f'"{ztun_cni.LOG}"') == 1
    copy.write_text(text.replace(f'"{ztun_cni.LOG}"', f'"{directory / "log"}"'))
    copy.chmod(0o755)
    return copy


class Call:
    """One run of the plugin; `out` is what it printed."""

    def __init__(self, command: str, config: Any, directory: Path, **environment: str) -> None:
        if isinstance(config, dict):
            config = {
                "name": "net",
                "socket": str(directory / "agent.sock"),
                "logFile": str(directory / "log"),
            } | config
            config = json.dumps(config)
        done = subprocess.run(
            [installed(directory)],
            input=config,
            env=ENVIRONMENT | {"CNI_COMMAND": command} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not done.stderr, done.stderr
        self.code = done.returncode
        self.out = json.loads(done.stdout) if done.stdout else None
        log = directory / "log"
        self.log = log.read_text() if log.exists() else ""


def config(**more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "type": "ztun-cni", "prevResult": PREVIOUS} | more


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_add_asks_the_agent_and_passes_the_result_on_as_it_was(
    agent: Agent, tmp_path: Path, version: str
) -> None:
    previous = PREVIOUS | {"cniVersion": version, "x": {"y": [1, None]}}
    call = Call("ADD", config(cniVersion=version, prevResult=previous), tmp_path)
    assert (call.code, call.out, call.log) == (0, previous, "")
    assert agent.asked == [
        {
            "command": "ADD",
            "container": "c1",
            "netns": "/run/netns/cni-1",
            "ifname": "eth0",
            "namespace": "demo",
            "name": "web",
            "uid": "u1",
        }
    ]


def test_a_refusal_fails_the_sandbox_with_the_agents_words_and_is_logged(
    agent: Agent, tmp_path: Path
) -> None:
    agent.status, agent.body = "400 Bad Request", "pod demo/web cannot be captured: netkit\n"
    call = Call("ADD", config(), tmp_path)
    assert call.code == 1
    assert call.out == {"cniVersion": "1.0.0", "code": 11, "msg": "pod demo/web cannot be captured: netkit"}
    assert "ADD" in call.log and "K8S_POD_NAME=web" in call.log and "netkit" in call.log


def test_no_agent_fails_the_sandbox_and_says_what_to_do(tmp_path: Path) -> None:
    call = Call("ADD", config(), tmp_path)
    assert call.code == 1 and call.out is not None
    assert (
        call.out["code"] == 11
        and "does not answer on" in call.out["msg"]
        and "ztun status" in call.out["msg"]
    )


def test_an_agent_that_hangs_is_waited_for_as_long_as_configured(agent: Agent, tmp_path: Path) -> None:
    agent.is_silent = True
    call = Call("ADD", config(timeoutSeconds=0.3), tmp_path)
    assert call.code == 1 and call.out is not None and "does not answer" in call.out["msg"]


@pytest.mark.parametrize(
    ("more", "arguments"),
    [
        ({"excludeNamespaces": ["kube-system", "demo"]}, None),
        ({"agentPod": {"namespace": "demo", "prefix": "we"}}, None),
        ({}, ""),
        ({}, "IgnoreUnknown=1;FOO=bar"),
    ],
    ids=["excluded", "own-pod", "no-arguments", "no-pod"],
)
def test_who_passes_without_an_agent(tmp_path: Path, more: dict[str, Any], arguments: str | None) -> None:
    environment = {} if arguments is None else {"CNI_ARGS": arguments}
    call = Call("ADD", config(**more), tmp_path, **environment)
    assert (call.code, call.out) == (0, PREVIOUS)


@pytest.mark.parametrize(
    "more", [{"agentPod": {"namespace": "demo", "prefix": "ztun-"}}, {"excludeNamespaces": ["dem"]}]
)
def test_who_does_not(tmp_path: Path, more: dict[str, Any]) -> None:
    assert Call("ADD", config(**more), tmp_path).code == 1


def test_delete_is_never_an_error(agent: Agent, tmp_path: Path) -> None:
    first = Call("DEL", config(), tmp_path)
    second = Call("DEL", {"cniVersion": "1.0.0", "type": "ztun-cni"}, tmp_path, CNI_NETNS="")
    assert (first.code, first.out, second.code, second.out) == (0, None, 0, None)
    assert [row["netns"] for row in agent.asked] == ["/run/netns/cni-1", ""]
    agent.status = "500 Internal Server Error"
    assert Call("DEL", config(), tmp_path).code == 0
    for broken in ("", "{", "[]", '{"cniVersion": "9"}'):
        assert Call("DEL", broken, tmp_path).code == 0


def test_delete_without_an_agent_is_none_either(tmp_path: Path) -> None:
    call = Call("DEL", config(), tmp_path)
    assert (call.code, call.out) == (0, None) and "does not answer" in call.log


def test_check_and_status_say_what_the_agent_says(agent: Agent, tmp_path: Path) -> None:
    for command, code in (("CHECK", 100), ("STATUS", 50)):
        agent.status, agent.body = "200 OK", "{}"
        good = Call(command, config(cniVersion="1.1.0"), tmp_path)
        assert (good.code, good.out) == (0, None)
        agent.status, agent.body = "400 Bad Request", "not so"
        bad = Call(command, config(cniVersion="1.1.0"), tmp_path)
        assert bad.code == 1 and bad.out == {"cniVersion": "1.1.0", "code": code, "msg": "not so"}


def test_garbage_collection_tells_which_sandboxes_there_are(agent: Agent, tmp_path: Path) -> None:
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    collect = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert Call("GC", collect, tmp_path).code == 0
    assert agent.asked == [{"command": "GC", "valid": valid}]


def test_version_needs_nothing(tmp_path: Path) -> None:
    call = Call("VERSION", "", tmp_path)
    assert call.out == {"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


@pytest.mark.parametrize(
    ("command", "given", "code", "words"),
    [
        ("ADD", "{", 6, "is no JSON"),
        ("ADD", "[]", 6, "is no object"),
        ("ADD", config(cniVersion="0.1.0"), 1, "knows no cniVersion '0.1.0': 0.3.1, 0.4.0"),
        ("ADD", {"cniVersion": "1.0.0"}, 7, "put it last in `plugins`"),
        ("ADD", config(timeoutSeconds="soon"), 7, 'timeoutSeconds is "soon" in the network configuration'),
        ("ADD", config(timeoutSeconds=True), 7, "it is a number of seconds"),
        ("ADD", config(excludeNamespaces=5), 7, "it is a list of names"),
        ("ADD", config(agentPod=["x"]), 7, "it is an object with namespace and prefix"),
        ("ADD", config(agentPod={"namespace": "demo", "prefix": 5}), 7, "are texts"),
        ("ADD", config(socket=5), 7, "socket is 5 in the network configuration"),
        ("ADD", config(socket="/x\0y"), 11, "does not answer on /x"),
        ("PLUG", config(), 4, "CNI_COMMAND is 'PLUG'"),
        ("", config(), 4, "CNI_COMMAND is ''"),
    ],
)
def test_what_a_runtime_must_not_say(tmp_path: Path, command: str, given: Any, code: int, words: str) -> None:
    call = Call(command, given, tmp_path)
    assert call.code == 1 and call.out is not None
    assert call.out["code"] == code and words in call.out["msg"]
    assert words in call.log, "also where the configuration does not say where"


def test_a_start_imports_no_package_that_takes_long(agent: Agent, tmp_path: Path) -> None:
    """Each takes as long as everything else: they are for texts that are no JSON."""
    code = f"""
import sys
try: exec(compile(open({str(PLUGIN)!r}).read(), "plugin", "exec"), {{"__name__": "__main__"}})
except SystemExit as ended: assert not ended.code
print(*sys.modules, file=sys.stderr)"""
    bare = subprocess.run(
        ["/usr/bin/python3", "-ISs", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-ISs", "-c", code],
        input=json.dumps(config(socket=str(agent.path), name="net")),
        env=ENVIRONMENT | {"CNI_COMMAND": "ADD"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == PREVIOUS
    assert set(done.stderr.split()) - set(bare.stdout.split()) <= {"_socket", "_json", "__future__"}


@pytest.mark.parametrize("name", ["make_scanner", "make_encoder"])
def test_a_python_whose_json_is_made_otherwise_will_do(
    monkeypatch: pytest.MonkeyPatch, name: str, agent: Agent
) -> None:
    monkeypatch.delattr(f"_json.{name}")
    text = '{"a": [1, -2.5e3, "ä\\u00e9\\"", null, true, {}], "b": {"c": []}}'
    assert ztun_cni.read(text.encode()) == json.loads(text)
    assert json.loads(ztun_cni.written(json.loads(text))) == json.loads(text)


def test_the_log_is_begun_anew_when_it_is_full(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * (ztun_cni.LOG_LIMIT_BYTES + 1))
    call = Call("ADD", config(), tmp_path)
    assert len(call.log) < 1000 and (tmp_path / "log.1").stat().st_size > ztun_cni.LOG_LIMIT_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]


def test_no_name_ends_a_line_of_the_log_or_steers_a_terminal(tmp_path: Path) -> None:
    hostile = "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web\n2026-01-01T00:00:00+0000 ADD forged\x1b[2J"
    call = Call("ADD", config(), tmp_path, CNI_ARGS=hostile)
    assert call.code == 1 and len(call.log.splitlines()) == 1 and call.log.strip().isprintable()


def test_a_log_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    call = Call("ADD", config(logFile=str(tmp_path / "none" / "log")), tmp_path)
    assert call.out is not None and call.out["code"] == 11


def test_it_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(PLUGIN.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"_socket", "json", "posix", "sys", "time"} and names <= set(sys.stdlib_module_names)
    assert PLUGIN.read_text().startswith("#!/usr/bin/python3 -ISs\n")
