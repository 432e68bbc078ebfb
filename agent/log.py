"""The process log: one line per event on stderr, plain or JSON, in ztunnel's shape (docs/WIRE.md#logs).

A reader that stands still costs lines, never time: they are counted, and the log says where they are missing.
"""

from __future__ import annotations

import atexit
import json
import logging
import sys
import time
from typing import TextIO

from agent.log_force import put_in_force
from agent.log_levels import Levels, initial
from agent.model.counted import counted
from agent.telemetry.line_writer import LineWriter, text_stream

QUEUE_LINES = 1000
EXIT_PATIENCE_S = 0.5


class PlainFormatter(logging.Formatter):
    """`<RFC 3339 UTC>\\t<level>\\t<scope>\\t<message>`; a message cannot break the line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        text = one_line(self._text(record))
        return f"{timestamp(record.created)}\t{record.levelname.lower()}\t{self._process}:{scope(record)}\t{text}"

    def _text(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return message


class JsonFormatter(PlainFormatter):
    """The same as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "level": record.levelname.lower(),
                "time": timestamp(record.created),
                "scope": f"{self._process}:{scope(record)}",
                "message": self._text(record),
            }
        )


def scope(record: logging.LogRecord) -> str:
    return record.name.removeprefix("agent.").replace(".", "::")


def one_line(text: str) -> str:
    """What a line may hold. Names come from peers and pods: they end no line, fake no field, and steer no terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, microseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


class ProcessLog:
    """The log of this process, and whatever else it prints, by threads of their own: nothing waits for a reader.

    `sys.stdout` and `sys.stderr` lead there while it is open, so that tracebacks keep their place among the lines.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        self._before = sys.stdout, sys.stderr
        self._writers = [self._writer(stream.fileno(), formatter) for stream in self._before]
        sys.stdout, sys.stderr = (
            text_stream(writer, stream.fileno())
            for writer, stream in zip(self._writers, self._before, strict=True)
        )
        self.handler: logging.StreamHandler[TextIO] = logging.StreamHandler(sys.stderr)
        self.handler.setFormatter(formatter)

    @property
    def lost(self) -> int:
        """Lines dropped so far because nobody took them."""
        return sum(writer.lost for writer in self._writers)

    def close(self, patience_s: float = EXIT_PATIENCE_S) -> None:
        """Write what waits, for at most `patience_s`, and go back to the streams of before."""
        ours, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), self._before
        self.handler.setStream(sys.stderr)
        for stream, writer in zip(ours, self._writers, strict=True):
            stream.close()
            writer.close(patience_s)

    def _writer(self, fd: int, formatter: logging.Formatter) -> LineWriter:
        def note(lost: int) -> str:
            missing = counted(lost, "line is", "lines are")
            text = f"{missing} missing here: its reader was too slow for that, or its disk full"
            return formatter.format(logging.LogRecord("log", logging.WARNING, __file__, 0, text, None, None))

        return LineWriter(fd, note, limit=QUEUE_LINES, linger_s=0.0)


def set_up_log(levels: str, form: str, process: str) -> ProcessLog:
    """Configure the loggers of this process, by `levels` of `--log-level`; what waits at its end is written then."""
    log = ProcessLog(JsonFormatter(process) if form == "json" else PlainFormatter(process))
    logging.basicConfig(handlers=[log.handler], force=True)
    put_in_force(initial(levels), Levels())
    atexit.register(log.close)
    return log
