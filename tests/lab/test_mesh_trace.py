"""`ztun trace` beside live traffic: what a connection meets, by name, also with all of ztun dead; and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent.lab.agents import ZTUN
from redirect.maps import Maps
from redirect.opening import now_ns
from redirect.pins import Pins
from tests.support.labglass import ztun
from tests.support.labmesh import SILENCE_S, World
from tests.support.labtraffic import until

pytestmark = pytest.mark.kernel


@contextmanager
def tracing(world: World, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ztun trace ARGUMENTS` on node-a, when the programs tell it of packets."""
    where = ["--instance", world.mesh.instance("node-a"), "--run-dir", str(world.mesh.run_dir("node-a"))]
    enter = ["nsenter", f"--net={world.node('node-a').netns}"]
    process = subprocess.Popen(
        [*enter, *ZTUN, "trace", *arguments, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith("tracing "), said + process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[list[str], str]:
    """Its lines, and what it says at its end."""
    out, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    return out.splitlines(), said


def rows(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def maps(world: World) -> Maps:
    return Maps(Pins(world.mesh.instance("node-a"), world.mesh.run_dir("node-a")).generation)


def test_a_connection_of_a_pod_is_told_from_its_syn_to_the_host_by_name(world: World) -> None:
    client, server = world.address("client-a"), world.address("server-b")
    device = world.pod("client-a").ifname
    with tracing(world, "demo/client-a", "-o", "json") as process:
        assert world.ask("client-a", server) == client
        process.send_signal(signal.SIGINT)
        lines, said = ended(process)
    told = rows(lines)
    assert said.strip() == f"{len(told)} packets" and all(row["pod"] == "demo/client-a" for row in told)
    first = told[0]
    assert (first["program"], first["interface"], first["reason"]) == ("from_pod", device, "SYN_TO_PROXY")
    assert (first["source"], first["destination"], first["dport"]) == (client, server, 8080)
    assert (first["flags"], first["went"]) == ("S", "listener outbound")
    seen = {(row["program"], row["reason"]) for row in told}
    assert seen >= {
        ("lookup_pod_side", "PICKED"),
        ("from_pod_side", "TO_POD"),
        ("from_pod", "TO_PROXY"),
    }
    with maps(world) as left:
        assert left.trace_filter().until_ns == 0 and left.trace_ring() == 0


def test_drops_alone_are_told_with_every_process_of_ztun_dead(world: World) -> None:
    outside = world.address("outsider-b")
    world.kill_all("node-a")
    try:
        with tracing(world, "client-a", "--drops", "--count", "1") as absent:
            pytest.fail(f"no such pod: {absent}")
    except AssertionError as error:
        assert "no captured pod here" in str(error) and "demo/client-a" in str(error)
    try:
        with tracing(world, f"{outside}:8080", "--drops", "--count", "1") as process:
            with pytest.raises(TimeoutError):
                world.dial("client-a", outside, timeout_s=SILENCE_S)
            ((line,), said) = ended(process)
        assert f"from_pod {world.pod('client-a').ifname} demo/client-a TCP" in line
        assert f"> {outside}:8080 [S]" in line and line.endswith("NO_LISTENER: drop")
        assert said.startswith(("1 packet\n", "1 packet,"))
    finally:
        world.restart("node-a")


def test_one_traces_at_a_time_and_the_kernel_ends_one_that_is_killed(world: World) -> None:
    server = world.address("server-b")
    with tracing(world, "demo/client-a") as process, maps(world) as pinned:
        second = ztun(world, "trace", "demo/client-a")
        assert second.exit_code == 1 and f"process {process.pid} traces here already" in second.output
        first_ns = pinned.trace_filter().until_ns
        until(lambda: pinned.trace_filter().until_ns > first_ns, "it puts its end off")
        process.send_signal(signal.SIGKILL)
        process.wait()
        until_ns = pinned.trace_filter().until_ns
        assert 0 < until_ns - now_ns() <= 2_000_000_000
        until(lambda: now_ns() > until_ns, "it is over")
        assert world.is_served("client-a", server)
        assert pinned.trace_filter().until_ns == until_ns, "nobody has put it off"
    # What it left is in nobody's way.
    done = ztun(world, "trace", "demo/client-a", "--for", "1s", "-o", "json")
    assert done.exit_code == 0 and " packet" in done.output, done.output


def test_a_time_ends_it_and_tables_of_maps_show_who_traces(world: World) -> None:
    with tracing(world, ":9", "--for", "2s"):
        shown = ztun(world, "maps", "dump", "tracing").output
        assert "* 9" in shown and "LOST" in shown
        assert ztun(world, "maps", "dump", "trace_ring").output.count("\n") == 2
