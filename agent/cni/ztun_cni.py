#!/usr/bin/python3 -ISs
"""ztun-cni: has the agent of this node capture a pod before the pod's first packet. A chained CNI plugin.

One file that imports nothing but the standard library, because it is copied to the node and started for each pod. It
decides nothing: it tells the agent, over its Unix socket, what the runtime tells it, and passes on the result of the
plugins before it. When the agent does not answer, the sandbox fails: a pod that should be in the mesh must not start
outside of it. Excluded namespaces and the agent's own pod pass without asking, so that a node comes up after a reboot.

CNI specification 1.1.0 (github.com/containernetworking/cni, SPEC.md): section 3 for the environment, section 4 for
commands and errors. Keys of its own in the network configuration:

    socket             the agent's (default /run/ztun/ztun/agent.sock)
    excludeNamespaces  Kubernetes namespaces whose pods are not asked for
    agentPod           {"namespace": ..., "prefix": ...} of the agent's own pods
    timeoutSeconds     how long the agent may take (default 15)
    logFile            where errors are written, too (default /var/log/ztun-cni.log; empty: nowhere)
"""

from __future__ import annotations

# What `os` and `socket` stand on: importing those takes as long as all else, and the start of each pod waits for it.
import _socket
import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Config = dict[str, Any]

SUPPORTED = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
SOCKET = "/run/ztun/ztun/agent.sock"
LOG = "/var/log/ztun-cni.log"
LOG_LIMIT_BYTES = 1 << 20
TIMEOUT_S = 15.0
TIMEOUT_LIMIT_S = 3600.0
ANSWER_LIMIT_BYTES = 1 << 20

# Codes of the specification; from 100 on they are the plugin's own.
INCOMPATIBLE_VERSION, INVALID_ENVIRONMENT, DECODING_FAILED, INVALID_CONFIG = 1, 4, 6, 7
TRY_AGAIN_LATER, NOT_AVAILABLE = 11, 50
NOT_CAPTURED = 100

KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "socket": ((str,), "the path of the agent's"),
    "excludeNamespaces": ((list,), "a list of names"),
    "agentPod": ((dict,), "an object with namespace and prefix"),
    "timeoutSeconds": ((int, float), "a number of seconds"),
    "logFile": ((str,), "a path, or empty"),
    "cni.dev/valid-attachments": ((list,), "a list of attachments"),
}
"""What may be in the network configuration, and is looked at here."""

READY_AGAIN = (
    "is the ztun agent of this node running? `ztun status` on the node says; the kubelet tries again"
)


class CniError(Exception):
    """What the runtime is told: a code of the specification, and words for the pod's events."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


def main() -> int:
    version, log, out = "1.0.0", LOG, sys.stdout
    environment = {name.decode(): value.decode(errors="replace") for name, value in posix.environ.items()}
    command = environment.get("CNI_COMMAND", "")
    try:
        if command == "VERSION":
            out.write(written({"cniVersion": SUPPORTED[-1], "supportedVersions": SUPPORTED}))
            return 0
        config = read_config(sys.stdin.buffer.read())
        version, log = config.get("cniVersion", version), config.get("logFile", LOG)
        result = run(command, config, environment)
    except CniError as error:
        note(log, command, environment.get("CNI_ARGS", ""), str(error))
        if command == "DEL":
            # It comes again and again until it succeeds, and there is nothing left to do for it.
            return 0
        answer = {"cniVersion": version, "code": error.code, "msg": str(error)}
        out.write(written(answer | ({"details": error.details} if error.details else {})))
        return 1
    if result is not None:
        out.write(written(result))
    return 0


class Reading:
    """How JSON is read: what the scanner of the standard library looks at."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}


def read(raw: bytes) -> Any:
    """A JSON text. Raises ValueError, RecursionError."""
    text = raw.decode().strip(" \t\r\n")
    try:
        # `json` without what it is wrapped into: regular expressions, which take twice as long to import as all this.
        from _json import make_scanner

        value, end = make_scanner(Reading)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return value
    except (ImportError, AttributeError, TypeError, StopIteration, ValueError, SystemError):
        # A Python that has it otherwise, or a text that is none: the scanner alone has no words for that.
        pass
    import json

    return json.loads(text)


def written(value: object) -> str:
    """The same as JSON."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder(None, repr, encode_basestring_ascii, None, ": ", ", ", False, False, True)
    except (ImportError, AttributeError, TypeError):
        import json

        return json.dumps(value)
    return "".join(encode(value, 0))


def read_config(raw: bytes) -> Config:
    try:
        config = read(raw)
    except (ValueError, RecursionError) as error:
        raise CniError(DECODING_FAILED, f"the network configuration is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILED, "the network configuration is no object")
    version = config.get("cniVersion", "")
    if version not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise CniError(INCOMPATIBLE_VERSION, f"ztun-cni knows no cniVersion {version!r}: {known}")
    for name, (kinds, words) in KEYS.items():
        value = config.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise CniError(
                INVALID_CONFIG, f"{name} is {written(value)[:80]} in the network configuration: it is {words}"
            )
    if not all(isinstance(value, str) for value in (config.get("agentPod") or {}).values()):
        raise CniError(
            INVALID_CONFIG, "namespace and prefix of agentPod in the network configuration are texts"
        )
    return config


def run(command: str, config: Config, environment: Mapping[str, str]) -> Config | None:
    """The result to print; None: nothing."""
    if command in ("STATUS", "GC"):
        valid = config.get("cni.dev/valid-attachments", [])
        ask(
            config,
            {"command": command, "valid": valid},
            NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN_LATER,
        )
        return None
    if command not in ("ADD", "DEL", "CHECK"):
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_COMMAND is {command!r}: it takes ADD, DEL, CHECK, STATUS, GC, VERSION"
        )
    previous = config.get("prevResult")
    if command != "DEL":
        if not isinstance(previous, dict):
            raise CniError(
                INVALID_CONFIG,
                "ztun-cni is chained behind the plugin that makes a pod's interface, and there is no prevResult: "
                "put it last in `plugins` of the network configuration",
            )
        if not environment.get("CNI_NETNS"):
            raise CniError(INVALID_ENVIRONMENT, "CNI_NETNS is missing")
    pod = pod_of(environment.get("CNI_ARGS", ""))
    if not passes(config, pod):
        request = {
            "command": command,
            "container": environment.get("CNI_CONTAINERID", ""),
            "netns": environment.get("CNI_NETNS", ""),
            "ifname": environment.get("CNI_IFNAME", ""),
            "namespace": pod["K8S_POD_NAMESPACE"],
            "name": pod["K8S_POD_NAME"],
            "uid": pod.get("K8S_POD_UID", ""),
        }
        ask(config, request, TRY_AGAIN_LATER if command == "ADD" else NOT_CAPTURED)
    return {"cniVersion": config["cniVersion"]} | (previous or {}) if command == "ADD" else None


def pod_of(arguments: str) -> dict[str, str]:
    """K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID, in whatever order they come."""
    pairs = (each.partition("=") for each in arguments.split(";"))
    return {name: value for name, _, value in pairs if name.startswith("K8S_POD_")}


def passes(config: Config, pod: Mapping[str, str]) -> bool:
    """Whether the agent has nothing to say about it."""
    namespace, name = pod.get("K8S_POD_NAMESPACE"), pod.get("K8S_POD_NAME")
    if not namespace or not name:
        return True  # no pod of Kubernetes
    own = config.get("agentPod") or {}
    if own and namespace == own.get("namespace") and name.startswith(own.get("prefix", "")):
        return True
    return namespace in (config.get("excludeNamespaces") or ())


def ask(config: Config, request: Config, code: int) -> None:
    """Have the agent do it. Raises CniError with that code when it does not, or does not answer."""
    path = config.get("socket") or SOCKET
    body = written(request).encode()
    head = f"POST /cni HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ends_s = time.monotonic() + min(float(config.get("timeoutSeconds") or TIMEOUT_S), TIMEOUT_LIMIT_S)
    try:
        # It ends with this process, which ends with the answer.
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        sock.settimeout(max(0.1, ends_s - time.monotonic()))
        sock.connect(path)
        sock.sendall(head.encode() + body)
        answer = b""
        while len(answer) < ANSWER_LIMIT_BYTES:
            sock.settimeout(max(0.1, ends_s - time.monotonic()))
            part = sock.recv(65536)
            if not part:
                break
            answer += part
    except (OSError, ValueError) as error:  # ValueError: of a path that no file has
        words = getattr(error, "strerror", None) or error
        raise CniError(code, f"the ztun agent does not answer on {path} ({words}): {READY_AGAIN}") from None
    first, _, rest = answer.partition(b"\r\n")
    _, _, said = rest.partition(b"\r\n\r\n")
    words = first.split()
    status = words[1] if len(words) > 1 else b""
    if status == b"200":
        return
    text = said.decode(errors="replace").strip() if status == b"400" else ""
    raise CniError(code, text or f"the ztun agent answers {first.decode(errors='replace')!r} on {path}")


def note(path: str, command: str, arguments: str, text: str) -> None:
    """A line in the log on the node, which is begun anew when it is full; one that cannot be written is none."""
    if not path:
        return
    try:
        try:
            if posix.stat(path).st_size > LOG_LIMIT_BYTES:
                posix.replace(path, path + ".1")
        except FileNotFoundError:
            pass
        said = " ".join(f"{command} {arguments} {text}".split())
        line = (
            f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {''.join(c if c.isprintable() else '?' for c in said)}\n"
        )
        with open(path, "a", encoding="utf-8") as log:
            log.write(line)
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())
