"""Lines to a descriptor from a thread of their own, because neither traffic nor control may wait for a reader.

A bounded queue, and a thread that writes batches to a pipe, file, socket or terminal that others may share. When
the reader is too slow, lines are dropped and counted, and the log says so at the place of the gap as soon as it
flows again. `LineStream` puts a text stream in front, for what else a process prints.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from agent.privileges import keep_only

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

QUEUE_LINES = 10_000
QUEUE_CHARS = 8 << 20
STEP_S = 0.05
"""How long the thread waits for a slow reader before it looks whether to give up."""


class _Mark(Enum):
    GAP = "stands in the queue where lines are missing"


class LineWriter:
    """Writes lines to a file descriptor. `write` never blocks; one thread at a time may call it.

    At most `limit` lines wait, or QUEUE_CHARS and one more; what comes then is dropped and counted, and
    `lost_note` makes the line that stands for so many. Lines are gathered for `linger_s` before they are written,
    so that a busy log costs few wake-ups. The thread starts with the first line and has no capabilities.
    """

    def __init__(
        self,
        fd: int,
        lost_note: Callable[[int], str],
        *,
        limit: int = QUEUE_LINES,
        batch: int = 64,
        linger_s: float = 0.02,
    ) -> None:
        self._fd = fd
        self._lost_note = lost_note
        self._limit = limit
        self._batch = batch
        self._linger_s = linger_s
        self._queue: deque[str | _Mark] = deque()
        # Each counter has one thread that writes it.
        self._refused = self._failed = 0
        self._chars_in = self._chars_out = 0
        self._refused_noted = self._unnoted = 0
        self._gap_is_open = False
        self._has_lines = threading.Event()
        self._is_closing = threading.Event()
        self._gives_up = False
        self._is_torn = False
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> int:
        """Lines dropped so far: the queue was full, the reader gone, the disk full."""
        return self._refused + self._failed

    def write(self, text: str) -> None:
        """Queue one line; `text` is without its newline and has none inside."""
        is_full = len(self._queue) >= self._limit or self._chars_in - self._chars_out >= QUEUE_CHARS
        if is_full or self._is_closing.is_set():
            self._refused += 1
            if self._gap_is_open or self._is_closing.is_set():
                return
            self._gap_is_open = True
            self._queue.append(_Mark.GAP)
        else:
            self._gap_is_open = False
            self._chars_in += len(text)
            self._queue.append(text)
        # Where it is set, the thread has yet to clear it, and reads the queue after that.
        if not self._has_lines.is_set():
            self._has_lines.set()
            if self._thread is None:
                self._start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Writes what waits, for at most `timeout_s`; the rest counts as lost. The fd stays open."""
        self._is_closing.set()
        self._has_lines.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._gives_up = True
            self._thread.join(STEP_S * 2)
        self._refused += sum(isinstance(line, str) for line in self._queue)
        self._queue.clear()

    def _start(self) -> None:
        # A daemon: a write that blocks in spite of POLLOUT (the pipe has other writers) must not hold up the exit.
        self._thread = threading.Thread(target=self._run, name=f"lines-{self._fd}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # Capabilities are per thread, and this one only writes: whatever its process may, it may not.
        keep_only()
        while True:
            self._has_lines.wait()
            self._is_closing.wait(self._linger_s)
            # Cleared before the queue is read: a line that comes later sets it again.
            self._has_lines.clear()
            while self._queue and not self._gives_up:
                self._deliver(self._take())
            if self._is_closing.is_set() and (self._gives_up or not self._queue):
                return

    def _take(self) -> list[str]:
        """The next lines up to a gap; the gap itself when it is next."""
        lines: list[str] = []
        while self._queue and len(lines) < self._batch:
            line = self._queue[0]
            if isinstance(line, _Mark):
                if lines:
                    break
                refused = self._refused
                self._unnoted += refused - self._refused_noted
                self._refused_noted = refused
            else:
                lines.append(line)
                self._chars_out += len(line)
            self._queue.popleft()
        return lines

    def _deliver(self, lines: list[str]) -> None:
        notes = [self._lost_note(self._unnoted)] if self._unnoted else []
        # A line that broke off must not be continued by the next one.
        start = "\n" if self._is_torn else ""
        text = start + "".join(f"{line}\n" for line in (*notes, *lines))
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data and self._is_writable():
                written = self._some(data)
                self._is_torn = data[written - 1] != ord("\n") if written else self._is_torn
                data = data[written:]
        except OSError:
            # The reader is gone (EPIPE) or the disk is full: these lines are lost, later ones may do better.
            pass
        left = bytes(data).count(b"\n")
        if left <= len(lines):
            self._unnoted = 0
        self._unnoted += min(left, len(lines))
        self._failed += min(left, len(lines))

    def _is_writable(self) -> bool:
        """Waits for a slow reader in small steps, so that `close` can end the wait."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not poll.poll(STEP_S * 1000):
            if self._gives_up:
                return False
        return True

    def _some(self, data: memoryview) -> int:
        # POLLOUT of a pipe promises room for one page only, and so much is written in one piece, whoever else
        # writes. Whole lines where they fit, so that lines of several processes do not mix.
        piece = bytes(data[: select.PIPE_BUF])
        whole = piece.rfind(b"\n") + 1
        try:
            return os.write(self._fd, piece[: whole or len(piece)])
        except BlockingIOError:
            return 0


class LineStream(io.RawIOBase):
    """What a text stream writes into so that its lines go to a LineWriter; use `text_stream`."""

    def __init__(self, writer: LineWriter, fd: int) -> None:
        super().__init__()
        self._writer = writer
        self._fd = fd
        self._unfinished = b""

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        text = bytes(data)
        *lines, self._unfinished = (self._unfinished + text).split(b"\n")
        for line in lines:
            self._writer.write(line.decode("utf-8", "backslashreplace"))
        return len(text)

    def close(self) -> None:
        """Pass on a line that has no end yet."""
        if self._unfinished:
            self.write(b"\n")
        super().close()


def text_stream(writer: LineWriter, fd: int) -> io.TextIOWrapper:
    """A stream to print to that never blocks. Close it before its writer."""
    raw = io.BufferedWriter(LineStream(writer, fd))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
