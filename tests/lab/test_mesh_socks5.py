"""SOCKS5 for pods (`--socks5`): curl asks for connections, and gets what one of its pod's own would get."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from redirect.netns import entered
from tests.support.labmesh import World, policy_manifest, principal, running, service_manifest
from tests.support.labtraffic import PATIENCE_S, until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl, a client of SOCKS5, is not installed"),
]
PROXY = {4: "169.254.77.1:15080", 6: "[fd7a:7475:6e::1]:15080"}
WEB_VIP = "10.96.77.55"
HTTP_PORT, CLOSED = 8081, 8099
REFUSED_BY_PROXY = 97
"""curl's exit code; what the proxy said is in its words."""


class Answers(BaseHTTPRequestHandler):
    """Says who has asked."""

    def do_GET(self) -> None:
        body = str(self.client_address[0]).removeprefix("::ffff:").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(HTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    flags = {"socks5": "true", "honest-connect": "all", "workers": "1"}
    with running("k", tmp_path_factory.mktemp("socks5"), flags=flags) as made, HttpServers(made):
        yield made


class HttpServers:
    """HTTP in pods, for a `with`."""

    def __init__(self, world: World) -> None:
        self._servers = []
        for pod in ("server-b", "outsider-b"):
            with entered(world.pod(pod).netns):
                self._servers.append(Server(("::", HTTP_PORT), Answers))
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def curl(world: World, pod: str, host: str, port: int = HTTP_PORT, version: int = 4) -> tuple[int, str]:
    """(exit code, what it got or says)"""
    argv = [
        "curl",
        "-sS",
        "-m",
        str(PATIENCE_S),
        "--socks5-hostname",
        PROXY[version],
        f"http://{host}:{port}/",
    ]
    with entered(world.pod(pod).netns):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    return done.returncode, done.stdout or done.stderr


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_of_the_mesh_is_reached_as_that_pod(world: World, version: int) -> None:
    me, server = world.address("client-a", version), world.address("server-b", version)
    host = f"[{server}]" if version == 6 else server
    log = world.log("node-a")
    assert curl(world, "client-a", host, version=version) == (0, me)
    line = log.line(f"{server}", "sa/server", "connection complete")
    assert 'src.workload="client-a"' in line and 'dst.workload="server-b"' in line


def test_names_are_those_of_the_mesh(world: World) -> None:
    service = service_manifest("web", "pod: server-b", WEB_VIP, target=HTTP_PORT)
    answer = (0, world.address("client-a"))
    with world.manifest("web", service):
        until(lambda: "demo/web.demo.svc.cluster.local" in world.status()["services"], "it is known")
        for name in (WEB_VIP, "web", "web.demo", "web.demo.svc.cluster.local"):
            assert curl(world, "client-a", name, 80) == answer
    code, said = curl(world, "client-a", "no..name", 80)
    assert code == REFUSED_BY_PROXY and "(4)" in said


def test_a_destination_outside_of_the_mesh_sees_the_pod(world: World) -> None:
    address = world.address("outsider-b")
    assert curl(world, "client-a", address) == (0, world.address("client-a"))


def test_the_client_is_told_why_not(world: World) -> None:
    code, said = curl(world, "client-a", world.address("outsider-b"), CLOSED)
    assert code == REFUSED_BY_PROXY and "(5)" in said, "refused outside of the mesh"
    code, said = curl(world, "client-a", world.address("server-b"), CLOSED)
    assert code == REFUSED_BY_PROXY and "(5)" in said, "refused inside"
    server = world.address("server-b")
    with world.manifest("policy", policy_manifest("test", principal("nobody"))):
        # One that is open when the policy comes is cut, which is another answer.
        until(
            lambda: (answer := curl(world, "client-a", server))[0] == REFUSED_BY_PROXY and "(2)" in answer[1],
            "the policy is in force",
        )
    until(lambda: curl(world, "client-a", server)[0] == 0, "the policy is gone")


def test_pods_outside_of_the_mesh_find_nobody_there(world: World) -> None:
    for pod in ("spare-a", "outsider-a"):
        with pytest.raises(OSError), world.dial(pod, "169.254.77.1", 15080, timeout_s=0.5):
            pass
