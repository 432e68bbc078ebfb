"""What a container runtime does with a network configuration: one plugin after the other, each told what the last said.

CNI specification 1.0.0, section 3. As a program it is a runtime for others: a JSON line in for each call, one back. It
is started once inside a machine, so that no start of a process but the plugins' own is in the time that it tells.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redirect import netns

BIN_DIR = Path("/opt/cni/bin")
TIMEOUT_S = 60.0


class ChainError(Exception):
    """A plugin failed; `answer` is what it printed."""

    def __init__(self, plugin: str, answer: Any) -> None:
        super().__init__(f"{plugin}: {answer}")
        self.answer = answer


def run(
    conflist: Mapping[str, Any], command: str, environment: Mapping[str, str], previous: Any = None
) -> Any:
    """The result of the last plugin. `previous`: that of the ADD before, for other commands. Raises ChainError."""
    plugins = list(conflist["plugins"])
    for plugin in reversed(plugins) if command == "DEL" else plugins:
        config = {key: value for key, value in plugin.items() if key != "capabilities"}
        config |= {"name": conflist["name"], "cniVersion": conflist["cniVersion"]}
        if previous is not None:
            config["prevResult"] = previous
        said = _call(plugin["type"], command, config, environment)
        previous = said if command == "ADD" else previous
    return previous


def _call(name: str, command: str, config: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    done = subprocess.run(
        [BIN_DIR / name],
        input=json.dumps(config),
        env={
            "CNI_COMMAND": command,
            "CNI_PATH": str(BIN_DIR),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ChainError(name, done.stdout.strip() or done.stderr.strip())
    return json.loads(done.stdout) if done.stdout.strip() else None


def pod_environment(container: str, path: str, namespace: str, name: str, uid: str) -> dict[str, str]:
    """What containerd says of a pod."""
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": namespace,
        "K8S_POD_NAME": name,
        "K8S_POD_UID": uid,
    }
    arguments["K8S_POD_INFRA_CONTAINER_ID"] = container
    return {
        "CNI_CONTAINERID": container,
        "CNI_NETNS": path,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
    }


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    name = request["container"]
    if request["command"] == "ADD":
        netns.create(name)
    environment = pod_environment(
        name, str(netns.path_of(name)), request["namespace"], request["pod"], request["uid"]
    )
    began_s = time.perf_counter()
    try:
        result = run(request["conflist"], request["command"], environment, request.get("previous"))
    except ChainError as error:
        return {"error": str(error)}
    took_s = time.perf_counter() - began_s
    if request["command"] == "DEL":
        netns.remove(name)
    if "group" in request:
        _stay(netns.path_of(name), Path(request["group"]) / name)
    return {"took_s": took_s, "result": result}


def _stay(namespace: Path, group: Path) -> None:
    """A process of the pod, by which it can be found. It ends with the machine."""
    group.mkdir(parents=True)
    with netns.entered(namespace):
        process = subprocess.Popen(["sleep", "infinity"], stdin=subprocess.DEVNULL)
    _staying.append(process)
    (group / "cgroup.procs").write_text(str(process.pid))


_staying: list[subprocess.Popen[bytes]] = []


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
