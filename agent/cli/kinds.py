"""Kinds of values that click has none of: seconds, which NaN is not, and spans of time with their units."""

from __future__ import annotations

import math
import re

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


UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Span(click.ParamType[float]):
    """A time from a second to `longest_s` in seconds, written with units: `90s`, `15m`, `1h30m`."""

    name = "time"

    def __init__(self, longest_s: float) -> None:
        self.longest_s = longest_s

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        if not re.fullmatch(r"(\d{1,9}[smh])+", text, re.ASCII):
            self.fail(f"{text!r} is no time: write it as 90s, 15m or 1h30m", param, ctx)
        seconds = sum(int(number) * UNITS_S[unit] for number, unit in re.findall(r"(\d+)([smh])", text))
        if not 1.0 <= seconds <= self.longest_s:
            self.fail(f"{text} is not between 1s and {self.longest_s / 3600:g}h", param, ctx)
        return seconds
