"""What keeps an agent from starting, in words for whoever starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class StartError(Exception):
    """The agent cannot start; the text says why and what to check."""


def make_run_directory(path: Path) -> None:
    """Raises StartError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartError(f"--run-dir: cannot make the directory {path}: {error.strerror}") from error


def single(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from single(error)
        else:
            yield error
