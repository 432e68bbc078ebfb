"""Which rows of many are shown: by what their fields are (`--where`), and how many (`--limit`). Pure.

A condition is `FIELD=VALUE` or `FIELD!=VALUE`. VALUE is what the table prints; `*` and `?` stand for anything, and a
range (10.0.0.0/8) for each address in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import wraps
from typing import Any, TypeVar

import click

from agent.cli.output import CliError, Row, cell

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Condition:
    """What a field has to be, or not to be."""

    field: str
    value: str
    is_equal: bool = True

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises ValueError."""
        field, sign, value = text.partition("=")
        is_equal = not field.endswith("!")
        name = field.removesuffix("!").strip()
        if not sign or not name or not value:
            raise ValueError(f"{text!r} is not FIELD=VALUE or FIELD!=VALUE")
        return cls(name, value.strip(), is_equal)

    def check(self, fields: Sequence[str]) -> None:
        """Raises CliError where this is about none of them."""
        if self.field not in fields:
            raise CliError(f"there is no field {self.field!r}; there are {', '.join(fields) or 'none'}")

    def holds(self, row: Row) -> bool:
        """Raises CliError where the row has no such field."""
        self.check(tuple(row))
        found = row[self.field]
        several = found if isinstance(found, list | tuple) else [found]
        return any(self._is(cell(each)) for each in several) == self.is_equal

    def _is(self, text: str) -> bool:
        if fnmatchcase(text, self.value):
            return True
        try:
            # Also another way to write the same address.
            return ipaddress.ip_address(text) in ipaddress.ip_network(self.value, strict=False)
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Selection:
    """All conditions have to hold; `limit` None: as many as there are."""

    conditions: tuple[Condition, ...] = ()
    limit: int | None = None

    def check(self, fields: Sequence[str]) -> None:
        """Raises CliError where no row has such a field, also when there is no row."""
        for condition in self.conditions:
            condition.check(fields)

    def of(self, rows: Iterable[Row]) -> tuple[list[Row], int]:
        """The rows to show, and how many more there are."""
        found = [row for row in rows if all(condition.holds(row) for condition in self.conditions)]
        shown = found if self.limit is None else found[: self.limit]
        return shown, len(found) - len(shown)


def selection_options(command: Command) -> Command:
    """Adds `--where` and `--limit`; the command gets both as `selection`."""

    @wraps(command)
    def chosen(where: tuple[Condition, ...], limit: int | None, **rest: Any) -> Any:
        return command(selection=Selection(where, limit), **rest)

    def conditions(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> tuple[Condition, ...]:
        try:
            return tuple(map(Condition.parse, texts))
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    by_field = click.option(
        "--where",
        multiple=True,
        metavar="FIELD=VALUE",
        callback=conditions,
        help="Only entries whose field is VALUE, or is not (!=); * stands for anything, a CIDR for what is in it.",
    )
    at_most = click.option(
        "--limit", type=click.IntRange(1), metavar="NUMBER", help="So many entries at most."
    )
    wrapped: Any = by_field(at_most(chosen))
    result: Command = wrapped
    return result
