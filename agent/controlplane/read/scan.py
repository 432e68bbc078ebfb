"""What lies in a directory of manifests, subdirectories included: files to read, and what is passed over.

Hidden files and directories belong to editors and to the links of ConfigMap volumes; a hidden file with the ending of a
manifest is named all the same, as is everything else that somebody may take for one.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

ENDINGS = (".yaml", ".yml", ".json")
WHOLE = "."
"""Stands in `closed` for the directory itself."""
Stamp = tuple[int, int, int]
"""What tells that a file has changed: time of its content, size, inode."""


@dataclass(slots=True)
class Found:
    """Names are relative to the directory. `closed`: files and subdirectories that cannot be read, with the reason."""

    files: dict[str, Stamp] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)

    def is_below_closed(self, name: str) -> bool:
        return WHOLE in self.closed or any(name.startswith(f"{directory}/") for directory in self.closed)


def scan(root: Path) -> Found:
    """Raises OSError if the directory itself cannot be read."""
    found = Found()
    _scan(root, "", found, frozenset())
    return found


def _as_text(name: str) -> str:
    """As it can be logged, stored and sent: other bytes than UTF-8, and what moves a terminal's cursor, escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _scan(directory: Path, prefix: str, found: Found, above: frozenset[tuple[int, int]]) -> None:
    status = directory.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        found.passed_over[prefix.rstrip("/")] = "a link to a directory above it"
        return
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        written = _as_text(entry.name)
        name = prefix + written
        is_manifest = entry.name.lower().endswith(ENDINGS)
        if entry.name.startswith("."):
            if is_manifest:
                found.passed_over[name] = "a hidden file"
            continue
        if written != entry.name:
            found.closed[name] = "its name is no plain text; rename it"
            continue
        try:
            entry_status = entry.stat()
            if stat.S_ISDIR(entry_status.st_mode):
                _scan(directory / entry.name, f"{name}/", found, above | {here})
            elif not is_manifest:
                found.passed_over[name] = f"its name does not end in {', '.join(ENDINGS)}"
            elif not stat.S_ISREG(entry_status.st_mode):
                found.passed_over[name] = "it is no regular file"
            else:
                found.files[name] = (entry_status.st_mtime_ns, entry_status.st_size, entry_status.st_ino)
        except FileNotFoundError:
            if entry.is_symlink():
                # Its target may be away for a while, as a mount is; what it held is not deleted by that.
                found.closed[name] = "it is a link to nothing; remove the link to take its objects away"
        except OSError as error:
            found.closed[name] = error.strerror or str(error)
