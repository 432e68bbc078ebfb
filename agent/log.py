"""The process log: one line per event on stderr, plain or JSON, in ztunnel's shape (docs/WIRE.md#logs)."""

from __future__ import annotations

import json
import logging
import sys
import time


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
    return text.replace("\r", "\\r").replace("\n", "\\n")


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, microseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


def set_up_log(level: str, form: str, process: str) -> None:
    """Configure the root logger of this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if form == "json" else PlainFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
