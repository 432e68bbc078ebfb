"""Formats of units: which this build gives and takes, and the one place that knows how an older one differs.

Everything else gives and reads FORMAT alone. Whoever changes what classes put into their state raises that number,
and has the format before it here as well, for a successor of the build before (an upgrade that is undone) and a giver
of it: what the older format lacks is taken away, or told as what it was then. Where that cannot be (the unit would mean
something else) BadUnit is raised, and the unit stays with its giver, which drains it: nothing is guessed.
"""

from __future__ import annotations

from agent.model.unit import FORMAT, BadUnit, Unit, decode, encode

FORMATS = (FORMAT,)
"""The best first."""


def given(unit: Unit, format_: int) -> bytes:
    """A unit as one of FORMATS has it. Raises BadUnit."""
    return encode(unit, format_)


def taken(data: bytes, format_: int) -> Unit:
    """A unit of this build, of what another one gave in this format. Raises BadUnit."""
    if format_ not in FORMATS:
        raise BadUnit(f"a unit of format {format_}")
    return decode(data, format_)
