"""What lies in a directory of manifests, subdirectories included: files to read, and what is passed over.

Hidden files and directories belong to editors and to the links of ConfigMap volumes; a hidden file with the ending of a
manifest is named all the same, as is everything else that somebody may take for one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ENDINGS = (".yaml", ".yml", ".json")
WHOLE = "."
"""Stands in `closed` for the directory itself."""


class Stamp(NamedTuple):
    """What tells that a file has changed: time of its content, size, inode, and time of anything about it."""

    changed_ns: int
    size: int
    inode: int
    touched_ns: int


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


def scan_again(root: Path, before: Found, names: Iterable[str]) -> Found | None:
    """As `scan`, where nothing else has changed since `before` than those names; None where that is not enough.

    Enough it is for files that come, change and go in directories of which files are known; not for links.
    """
    files = dict(before.files)
    for name in names:
        last = name.rpartition("/")[2]
        is_manifest, is_hidden = last.lower().endswith(ENDINGS), last.startswith(".")
        try:
            status = os.lstat(root / name)
            if not stat.S_ISREG(status.st_mode):
                return None
        except FileNotFoundError:
            status = None
        except OSError:
            return None
        if is_hidden and not is_manifest:
            continue  # a draft, or what is left of one
        if not is_manifest or is_hidden or name in before.closed or name in before.passed_over:
            return None
        if name not in files and (status is None or not _is_beside(name, files)):
            return None
        if status is None:
            del files[name]
        else:
            files[name] = _stamp(status)
    return Found(files, before.passed_over, before.closed)


def _is_beside(name: str, files: Mapping[str, Stamp]) -> bool:
    """Whether it is plain text, in a directory where a file is known."""
    directory = name.rpartition("/")[0]
    return _as_text(name) == name and any(known.rpartition("/")[0] == directory for known in files)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)


def _as_text(name: str) -> str:
    """As it can be logged, stored and sent: other bytes than UTF-8, and what moves a terminal's cursor, escaped."""
    if name.isascii() and name.isprintable():
        return name
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
                found.files[name] = _stamp(entry_status)
        except FileNotFoundError:
            if entry.is_symlink():
                # Its target may be away for a while, as a mount is; what it held is not deleted by that.
                found.closed[name] = "it is a link to nothing; remove the link to take its objects away"
        except OSError as error:
            found.closed[name] = error.strerror or str(error)
