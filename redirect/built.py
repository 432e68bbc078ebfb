"""Which code of each program was built here, by its tag (the kernel's hash of it), written down beside the lock.

The pins say what programs are to run, so one that somebody has pinned in the place of another would be attached by the
next agent. With the tags it is noticed, and built anew. Without the file nothing is known of any, so all are.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from redirect import sys_bpf
from redirect.findings import Finding, Part
from redirect.layout import LAYOUT_HASH, PINNED
from redirect.pins import Pins

log = logging.getLogger(__name__)

REMEDY = "restart the agent, which builds them anew"
NOTHING: Mapping[str, int] = MappingProxyType({})


def note(pins: Pins) -> None:
    """Of the programs that were built and pinned just now. Where there is no room for it that is said, no more."""
    whole = pins.tags.with_name(f"{pins.tags.name}.new")
    tags = json.dumps({LAYOUT_HASH: _tags(pins.generation)})
    try:
        whole.write_text(tags)
        whole.rename(pins.tags)
    except OSError as error:
        for path in (whole, pins.tags):
            path.unlink(missing_ok=True)
        log.warning("the tags of these programs cannot be kept in %s: %s", pins.tags, error.strerror)


def others(pins: Pins, held: Mapping[str, int] = NOTHING) -> Iterator[str]:
    """Programs of this layout that are pinned, or `held` open by name, and not built here, in words. Raises OSError."""
    known = _known(pins)
    if known is None:
        yield f"which code of each program was built here is not known: {pins.tags} does not say"
        return
    for name, tag in _tags(pins.generation).items():
        if tag != known.get(name):
            yield f"{name}: what is pinned has tag {tag}, and what was built here {known.get(name)}"
    for name, fd in held.items():
        tag = sys_bpf.prog_info(fd).tag
        if tag != known.get(name):
            yield f"{name}: what the agent attaches has tag {tag}, and what was built here {known.get(name)}"


def prove(pins: Pins, held: Mapping[str, int] = NOTHING) -> list[Finding]:
    """The same as findings."""
    return [Finding(Part.PROGRAM, None, words, REMEDY, is_mendable=False) for words in others(pins, held)]


def _known(pins: Pins) -> dict[str, str] | None:
    """Tags by program; None where nothing was written down of this layout."""
    try:
        tags = json.loads(pins.tags.read_text())[LAYOUT_HASH]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return tags if isinstance(tags, dict) else None


def _tags(directory: Path) -> dict[str, str]:
    """Of those that are pinned there."""
    found = {}
    for name in PINNED:
        try:
            fd = sys_bpf.obj_get(directory / f"prog_{name}")
        except FileNotFoundError:
            continue
        try:
            found[name] = sys_bpf.prog_info(fd).tag
        finally:
            os.close(fd)
    return found
