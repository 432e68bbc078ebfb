"""Standard output whose failures are told from all others: a full disk ends a command in one line, not in a traceback.

A reader that has had enough (`| head`) is left to click, which ends the command.
"""

from __future__ import annotations

import io
import os
import sys

import click


class OutputLost(click.ClickException):
    """What was printed cannot be written."""


class Stdout(io.TextIOWrapper):
    """The process's own stdout, raising OutputLost."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise lost(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise lost(error) from error


def lost(error: OSError) -> OutputLost:
    # What is still in the buffer goes nowhere, so that the interpreter's last flush does not fail again.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return OutputLost(f"stdout cannot be written: {error.strerror}")


def take_over() -> None:
    """From now on `sys.stdout` is one of these, unless it is closed or is not the process's own."""
    stdout = sys.stdout
    if isinstance(stdout, io.TextIOWrapper) and stdout is sys.__stdout__:
        encoding, errors, is_by_line = stdout.encoding, stdout.errors, stdout.line_buffering
        sys.stdout = Stdout(stdout.detach(), encoding=encoding, errors=errors, line_buffering=is_by_line)
