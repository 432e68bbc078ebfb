"""Kinds of values that click has none of: seconds, which NaN is not."""

from __future__ import annotations

import math

import click


class Seconds(click.FloatRange):
    """A number of seconds from `min` to `max`."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        # NaN is in every range as click compares.
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        result: float = super().convert(seconds, param, ctx)
        return result
