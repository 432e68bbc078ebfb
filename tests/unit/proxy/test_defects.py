"""A defect in our own code costs the connection it strikes, is reported, and leaves nothing behind."""

from __future__ import annotations

import errno
import socket

import pytest

from agent import FORM
from agent.net.plain_relay import PlainRelay
from tests.support import mesh
from tests.support.datapath import stream_pair
from tests.support.loopback import ours
from tests.support.two_nodes import CLIENT, SERVER, Broken, World, ended, exchange

OUTSIDE = ours("3.3")


def test_one_while_a_connection_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    application, captured = stream_pair(CLIENT)
    application.settimeout(5)
    peer = mesh.at(f"{CLIENT}:{application.getsockname()[1]}")
    with monkeypatch.context() as patched:
        patched.setattr(world.here.outbound, "rng", Broken())
        with pytest.raises(KeyError):
            world.driver.call(lambda: world.here.outbound.accepted(captured, peer, mesh.at(f"{SERVER}:8080")))
    assert not len(world.here.registry) and captured.fileno() == -1 and ended(application)
    assert "KeyError" in world.here.lines[0]
    assert exchange(world.connect()) == b"hello"


def test_one_while_a_relay_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the kernel has no memory for one more watch."""

    if FORM.modules:
        pytest.skip("needs pure Python: a method of a compiled class stays as it is")

    def broken(relay: PlainRelay) -> None:
        raise OSError(errno.ENOSPC, "no room for another watch")

    with socket.create_server((OUTSIDE, 0)) as server:
        target = f"{OUTSIDE}:{server.getsockname()[1]}"
        with monkeypatch.context() as patched:
            patched.setattr(PlainRelay, "start", broken)
            app = world.connect(target)
            served, _ = server.accept()
            served.settimeout(5)
            assert ended(app) and ended(served), "both are told, at once"
            world.driver.until(lambda: bool(world.here.lines))
        assert "no room for another watch" in world.here.lines[0]
        (crash,) = world.driver.crashes
        assert isinstance(crash, OSError)
        world.driver.crashes.clear()
        assert not len(world.here.registry)
        app = world.connect(target)
        served, _ = server.accept()
        served.sendall(b"x")
        assert app.recv(1) == b"x"
        served.close()
        app.close()
