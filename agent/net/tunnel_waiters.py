"""Sinks of tunnels that have something to send and may not: for want of the peer's window, or the socket is full.

In the order of asking, so that none starves; one that is resumed in vain asks again, behind the others.
"""

from __future__ import annotations

from agent.net.tunnel import TunnelSink


class TunnelWaiters:
    """Those of one HBONE connection."""

    __slots__ = ("_sinks",)

    def __init__(self) -> None:
        self._sinks: dict[TunnelSink, None] = {}

    def __len__(self) -> int:
        return len(self._sinks)

    def add(self, sink: TunnelSink) -> None:
        """Call `sink.resume()` when more may be sent."""
        self._sinks[sink] = None

    def discard(self, sink: TunnelSink) -> None:
        self._sinks.pop(sink, None)

    def clear(self) -> None:
        self._sinks.clear()

    def resume(self, sink: TunnelSink) -> None:
        """The window of its stream was opened."""
        if sink in self._sinks:
            del self._sinks[sink]
            sink.resume()

    def resume_all(self) -> None:
        waiting, self._sinks = self._sinks, {}
        for sink in waiting:
            sink.resume()
