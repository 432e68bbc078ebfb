"""Puts the programs of this layout where those of an older one are, or none: loaded apart, then adopted whole.

The maps of an older version are taken on where their layout is the same, and copied where not (`carry_over`). The
caller holds the instance's lock.
"""

from __future__ import annotations

from collections.abc import Iterable

from redirect import built, carry_over, loader
from redirect.attach import Attachments
from redirect.maps import Maps
from redirect.observe import observe
from redirect.pins import Pins, discard


def is_there(pins: Pins) -> bool:
    """Whether all of this layout is pinned, and is what was built here. Raises OSError."""
    return pins.is_complete and not any(built.others(pins))


def install(pins: Pins, running: Iterable[int], load_timeout_s: float) -> None:
    """`running`: the ids of the programs of ours that are attached. Raises LoaderError, OSError, and leaves nothing."""
    staging = pins.staging()
    carry_over.recover(running, pins.generations(), pins.recovered)
    older = [path for path in pins.generations() if path != staging]
    try:
        carry_over.share(older, staging)
        loader.load(staging, pins.loader_record, load_timeout_s)
        carry_over.copy(older, staging)
    except BaseException:
        discard(staging)
        raise
    pins.adopt(staging)
    built.note(pins)


def take_over(pins: Pins, maps: Maps, attachments: Attachments) -> None:
    """Swaps the programs of captured pods for this generation's and drops other generations. Raises OSError."""
    others = [path for path in pins.generations() if path != pins.generation]
    if others:
        observed = observe(maps, attachments)
        attachments.renew(place for place in observed.stale if place[0] in observed.links)
        for path in others:
            discard(path)
