"""The writer of logs under readers that are slow, stand still or go away, and the stream in front of it."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.telemetry import line_writer
from agent.telemetry.line_writer import LineWriter, text_stream

PIPE_BYTES = 4096


def note(lost: int) -> str:
    return f"lost {lost}"


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """Reader and writer of a pipe that holds one page. The reader may be closed inside."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield reader, writer
    finally:
        os.close(writer)


def read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


class Reader(threading.Thread):
    """Reads to the end once it is started."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._text = b""

    def run(self) -> None:
        self._text = read_all(self._fd)

    def lines(self) -> list[str]:
        self.join()
        return self._text.decode().splitlines()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def stand_still(writer: LineWriter) -> None:
    """Its thread stands in a write of more than the small pipe holds: from now on nothing leaves the queue."""
    writer.write("!" * 2 * PIPE_BYTES)
    wait_for(lambda: not writer._queue)


def test_every_line_comes_in_order() -> None:
    fd, writer_fd = os.pipe()
    reader = Reader(fd)
    reader.start()
    writer = LineWriter(writer_fd, note, linger_s=0)
    for number in range(5000):
        writer.write(f"line {number} " + "x" * 100)
    writer.close(timeout_s=30)
    os.close(writer_fd)
    assert [int(text.split()[1]) for text in reader.lines()] == list(range(5000))
    assert writer.lost == 0


def test_a_reader_that_stands_still_costs_lines_not_time() -> None:
    count = 5000
    with small_pipe() as (fd, writer_fd):
        writer = LineWriter(writer_fd, note, limit=100, linger_s=0)
        for _ in range(count):
            writer.write("y" * 199)
        # What is neither in the queue nor in the pipe nor in one batch (64) is dropped at once.
        assert writer.lost >= count - 100 - PIPE_BYTES // 200 - 2 * 64
        writer.close(timeout_s=0.1)
    delivered = read_all(fd)
    assert delivered.count(b"y\n") + writer.lost == count
    assert writer.lost > count / 2


def test_the_log_says_where_lines_are_missing_once_it_flows_again() -> None:
    with small_pipe() as (fd, writer_fd):
        writer = LineWriter(writer_fd, note, limit=10, batch=4, linger_s=0)
        stand_still(writer)
        for number in range(1000):
            writer.write(f"before {number} " + "z" * 200)
        lost = writer.lost
        assert lost > 900
        reader = Reader(fd)
        reader.start()
        wait_for(lambda: not writer._queue)
        writer.write("after")
        writer.close(timeout_s=30)
    lines = reader.lines()
    assert lines[-2:] == [note(lost), "after"]
    assert [int(text.split()[1]) for text in lines[1:-2]] == list(range(1000 - lost))
    assert writer.lost == lost


def test_the_note_comes_although_nothing_else_is_ever_said() -> None:
    with small_pipe() as (fd, writer_fd):
        writer = LineWriter(writer_fd, note, limit=2, batch=1, linger_s=0)
        stand_still(writer)
        for _ in range(1000):
            writer.write("q" * 200)
        reader = Reader(fd)
        reader.start()
        writer.close(timeout_s=30)
    assert reader.lines()[-1] == note(writer.lost)


def test_few_long_lines_are_as_much_as_many_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "QUEUE_CHARS", 100_000)
    with small_pipe() as (fd, writer_fd):
        writer = LineWriter(writer_fd, note, batch=1, linger_s=0)
        stand_still(writer)
        for _ in range(1000):
            writer.write("w" * 10_000)
        assert writer.lost > 1000 - 15
        reader = Reader(fd)
        reader.start()
        writer.close(timeout_s=30)
    assert reader.lines()[-1] == note(writer.lost)


def test_lines_of_several_writers_do_not_mix() -> None:
    fd, writer_fd = os.pipe()
    reader = Reader(fd)
    reader.start()
    writers = [LineWriter(writer_fd, note, linger_s=0) for _ in range(3)]
    for number in range(1000):
        for name, writer in zip("abc", writers, strict=True):
            writer.write(name * (100 + number))
    for writer in writers:
        writer.close(timeout_s=30)
    os.close(writer_fd)
    lines = reader.lines()
    assert len(lines) == 3000
    assert all(line == line[0] * len(line) for line in lines)


def test_lines_for_a_reader_that_is_gone_are_counted() -> None:
    with small_pipe() as (fd, writer_fd):
        os.close(fd)
        writer = LineWriter(writer_fd, note, linger_s=0)
        writer.write("lost")
        writer.close(timeout_s=30)
        assert writer.lost == 1
        writer.write("too late")
        assert writer.lost == 2


def test_a_line_that_broke_off_is_not_continued_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with path.open("wb") as file:
        writer = LineWriter(file.fileno(), note, linger_s=0)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
            for count in (1, 2):
                writer.write("a line of the full disk")
                wait_for(lambda count=count: writer.lost == count)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        writer.write("after")
        writer.close(timeout_s=30)
    assert path.read_text() == f"a line of \n{note(2)}\nafter\n"


def test_the_thread_may_do_nothing_but_write() -> None:
    with small_pipe() as (fd, writer_fd):
        writer = LineWriter(writer_fd, note, linger_s=0)
        writer.write("here")
        assert os.read(fd, 100) == b"here\n"
        [thread] = [t for t in threading.enumerate() if t.name == f"lines-{writer_fd}"]
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        writer.close()
        os.close(fd)
    rights = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if "Cap" in line}
    assert rights["CapEff:"] == rights["CapPrm:"] == rights["CapInh:"] == 0


def test_a_stream_passes_on_whole_lines_and_the_last_one_at_its_end() -> None:
    fd, writer_fd = os.pipe()
    writer = LineWriter(writer_fd, note, linger_s=0)
    stream = text_stream(writer, writer_fd)
    print("one", "two", file=stream)
    assert os.read(fd, 100) == b"one two\n"
    stream.write("three\nfo")
    stream.flush()
    assert os.read(fd, 100) == b"three\n"
    print("ur \udcff ü", end="", file=stream)
    stream.close()
    writer.close()
    os.close(writer_fd)
    assert read_all(fd).decode() == "four \\udcff ü\n"
