"""Replaces a file so that nobody, and no crash, ever sees half of it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(target: Path, content: bytes, mode: int, draft: Path | None = None) -> None:
    """A reader, or a crash, sees the old content or the new. Raises OSError; then the file is as it was.

    `draft`: beside the target, what the file is called until it is whole; one that a crash left there is replaced.
    Without it a hidden name that no other writer has.
    """
    if draft is None:
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    else:
        draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if error.filename is None and error.errno is not None:
            # What is said of a descriptor names no file: of a full disk people ask which.
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
