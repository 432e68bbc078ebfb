"""Streams that nobody reads stop no other stream of their connection, whichever end sends and whoever the peer is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent import FORM
from agent.net import tunnel_link
from agent.wire import h2_frames as frames
from agent.wire.h2_events import MIB, Limits, Stream
from agent.wire.h2_frames import Setting
from agent.wire.h2_tunnel import H2Tunnels
from tests.support.netpair import Hbone, Node, Relayed, node
from tests.support.traffic import Flow

ECHO_BYTES = 2 * MIB
DIRECTIONS = ["up", "down"]
Ends = Callable[[Relayed], tuple[object, object]]


def flow(relayed: Relayed, direction: str, size: int, seed: int = 1, *, ends: bool = True) -> Flow:
    """`up`: from the client to the server."""
    two = (relayed.client, relayed.server)
    source, sink = two if direction == "up" else two[::-1]
    return Flow(source, sink, size, seed, ends=ends)


class Stalled:
    """Tunnels into which one application pushes all it can, and which the other does not read."""

    def __init__(self, it: Node, hbone: Hbone, direction: str, count: int) -> None:
        self.it = it
        self.relayed = [hbone.relayed() for _ in range(count)]
        self.flows = [flow(relayed, direction, 24 * MIB, ends=False) for relayed in self.relayed]
        link = hbone.client if direction == "up" else hbone.server
        # Each holds what it can: nothing moves any more, and its sender waits for a window.
        seen: list[int] = []

        def stands() -> bool:
            it.settle()
            for each in self.flows:
                each.push()
            seen.append(sum(each.sent for each in self.flows))
            return link.standstill.waiting_tunnels == count and seen[-3:] == seen[-1:] * 3

        it.until(stands, 60)


def echoes(it: Node, relayed: Relayed) -> None:
    """A word each way, then 2 MB each way at once."""
    relayed.client.send(b"ping")
    assert relayed.read(relayed.server, 4) == b"ping"
    relayed.server.send(b"pong")
    assert relayed.read(relayed.client, 4) == b"pong"
    up, down = flow(relayed, "up", ECHO_BYTES, 2), flow(relayed, "down", ECHO_BYTES, 3)
    it.until(lambda: up.step() & down.step(), 60)
    assert up.got == up.data and down.got == down.data


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_twelve_stalled_streams_stop_neither_an_older_nor_a_newer_one(direction: str) -> None:
    with node() as it:
        hbone = Hbone(it)
        older = hbone.relayed()
        stalled = Stalled(it, hbone, direction, 12)
        echoes(it, older)
        echoes(it, hbone.relayed())
        receiver = hbone.server if direction == "up" else hbone.client
        held = [len(r.server_relay._backlog) + len(r.client_relay._backlog) for r in stalled.relayed]
        assert sum(held) == it.loop.backlogs.total_bytes == receiver.standstill.unread_bytes
        # Their readers take much at first, into the sockets' own buffers: so some windows have grown.
        assert max(held) <= 4 * MIB and sum(held) <= 12 * MIB // 4 + 16 * MIB
        # Whoever reads again loses nothing.
        late = stalled.flows[5]
        it.until(lambda: late.step() or len(late.got) == len(late.data), 60)
        assert late.got == late.data


def test_forty_stalled_streams_stop_no_other() -> None:
    with node() as it:
        hbone = Hbone(it)
        Stalled(it, hbone, "down", 40)
        echoes(it, hbone.relayed())


class FixedWindow(H2Tunnels):
    """A peer as others are: 4 MiB for each stream at once, and its window for all comes back by what was read.

    Credit is due when half of a window was read. (nghttp2, Envoy; others give it sooner.)
    """

    STREAM, CONNECTION = 4 * MIB, 16 * MIB

    def __init__(self, *, is_server: bool, now_s: float, limits: Limits | None = None) -> None:
        super().__init__(is_server=is_server, now_s=now_s, limits=limits)
        self.read_bytes = 0
        self._first_window = self.STREAM
        self._credit_below = 0
        self.out += frames.settings({Setting.INITIAL_WINDOW_SIZE: self.STREAM})

    def consumed(self, stream: Stream, size: int) -> bool:
        super().consumed(stream, size)
        self.read_bytes += size
        if self.read_bytes >= self.CONNECTION // 2:
            self.out += frames.window_update(0, self.read_bytes)
            self.receive_window += self.read_bytes
            self._granted += self.read_bytes
            self.read_bytes = 0
            return True
        return stream.unreturned >= self.STREAM // 2

    def give_credit(self, stream: Stream, now_s: float) -> None:
        size = stream.unreturned
        if size >= self.STREAM // 2 and stream.remote_open:
            stream.unreturned = 0
            self.out += frames.window_update(stream.id, size)
            stream.receive_window += size


@pytest.fixture
def peer_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accepting ends are of that kind."""
    if FORM.modules:
        pytest.skip("needs pure Python: compiled links hold compiled codecs")

    def codec(*, is_server: bool, now_s: float, limits: Limits | None) -> H2Tunnels:
        kind = FixedWindow if is_server else H2Tunnels
        return kind(is_server=is_server, now_s=now_s, limits=limits)

    monkeypatch.setattr(tunnel_link, "H2Tunnels", codec)


def test_bulk_towards_a_peer_with_fixed_windows_is_whole(peer_is_fixed: None) -> None:
    with node() as it:
        hbone = Hbone(it)
        flows = [flow(hbone.relayed(), "up", 24 * MIB, seed) for seed in range(6)]
        it.until(lambda: sum(each.step() for each in flows) == len(flows), 60)
        assert all(each.got == each.data for each in flows)


def test_three_stalled_uploads_to_such_a_peer_stop_no_other(peer_is_fixed: None) -> None:
    with node() as it:
        hbone = Hbone(it)
        older = hbone.relayed()
        Stalled(it, hbone, "up", 3)
        for relayed in (older, hbone.relayed()):
            each = flow(relayed, "up", 24 * MIB)
            it.until(each.step, 60)
            assert each.got == each.data


def test_many_stalled_uploads_to_such_a_peer_lose_nothing(peer_is_fixed: None) -> None:
    with node() as it:
        hbone = Hbone(it)
        stalled = Stalled(it, hbone, "up", 12)
        for each in stalled.flows:
            it.until(lambda each=each: each.step() or len(each.got) == len(each.data), 60)
            assert each.got == each.data
        assert hbone.client.standstill.waiting_tunnels == 0 == hbone.server.standstill.unread_bytes
