"""Servers of workers make no session tickets, in whichever way their process has begun."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHAKE = """
from agent.identity.handshake import Session
from tests.support.certs import TestCA, credentials
ca = TestCA()
one, two = (credentials(ca, f"spiffe://cluster.local/ns/a/sa/{name}") for name in "ab")
client, server = Session.client(one, (two.identity,)), Session.server(two)
server.feed(client.outgoing())
client.feed(server.outgoing())
server.feed(client.outgoing())
assert client.done and server.done
print(len(server.outgoing()), server.secured.state.write_sequence, os.environ.get("OPENSSL_CONF"))
"""
WORKER = "import os, agent.worker"
FORKED = (
    "import os, importlib, agent.start\nfor name in agent.start.SHARED:\n    importlib.import_module(name)"
)


def said(begin: str, **variables: str) -> list[str]:
    """Bytes behind a server's handshake, records that these are, and the variable afterwards."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    command = [sys.executable, "-c", begin + SHAKE]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("begin", [WORKER, FORKED])
def test_a_worker_sends_nothing_behind_its_handshake(begin: str) -> None:
    assert said(begin) == ["0", "0", "None"]


def test_a_configuration_that_somebody_has_named_stays_theirs() -> None:
    size, records, named = said(WORKER, OPENSSL_CONF="/dev/null")
    assert int(size) > 0 and records == "2" and named == "/dev/null"
