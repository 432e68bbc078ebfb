"""How every command prints: tables, JSON, durations, and errors of one line with an exit status.

On a terminal a table is rich's; elsewhere it is plain aligned text that `awk` can read, never cut to a width. Sentences
are for people alone, and keep within the width of the terminal, or 80 columns.
JSON is one object (docs/OPERATIONS.md#json): rows under their name, or `error`. What to print is the commands'
business.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, object]
Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
Command = TypeVar("Command", bound=Callable[..., Any])

LEAST_COLUMNS = 30
"""Of words, on terminals however narrow."""
UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


class CliError(click.ClickException):
    """Ends the command with exit status 1 and one line on stderr: what failed; what to check."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def option_of(*forms: str, help: str) -> Callable[[Command], Command]:
    """Adds `-o` with these forms as parameter `output`; the first is the default."""

    def note(context: click.Context, _: click.Parameter, value: str) -> str:
        if value == "json":
            context.meta[ERRORS_AS_JSON] = True
        return value

    return click.option(
        "-o",
        "--output",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        is_eager=True,  # what is wrong with the other options is said in this form, too
        callback=note,
        help=help,
    )


ERRORS_AS_JSON = "ztun.errors_as_json"
"""In a context's `meta` when a failure has to be an object on stdout as well as a line on stderr."""
output_option = option_of("table", "json", help="How to print the result.")
rows_option = option_of(
    "table",
    "wide",
    "json",
    "yaml",
    help="How to print the result; wide says whose an interface is, and folds no line.",
)
wide_option = option_of(
    "table",
    "wide",
    "json",
    help="How to print the result; wide has all of it, in lines as long as that takes.",
)
line_option = option_of("line", "json", help="How to print the result.")


def show(
    name: str,
    rows: Sequence[Row],
    output: str,
    columns: Sequence[str] | None = None,
    *,
    empty: str = "nothing to show",
) -> None:
    """Rows as a table with the given columns (default: every field), or as JSON with every field, under `name`."""
    if output in ("json", "yaml"):
        show_value({name: rows}, output)
    else:
        show_table(rows, columns, empty=empty, is_folded=output != "wide")


def show_table(
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    *,
    empty: str = "nothing to show",
    is_folded: bool = True,
) -> None:
    """`is_folded`: on a terminal cells are broken where a line would be wider than it."""
    if not rows:
        click.echo(empty)
        return
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    if is_folded and sys.stdout.isatty():
        Console().print(_rich_table(rows, columns))
    else:
        click.echo(plain_table(rows, columns))


def show_value(value: Mapping[str, object], output: str) -> None:
    """As `json` or `yaml`."""
    if output == "yaml":
        show_yaml(value)
    else:
        show_json(value)


def show_json(value: Mapping[str, object]) -> None:
    click.echo(json.dumps(plain(value), indent=2))


def show_yaml(value: Mapping[str, object]) -> None:
    import yaml  # only here: most commands print none, and each would wait for it

    click.echo(yaml.safe_dump(plain(value), sort_keys=False), nl=False)


def json_line(value: object) -> str:
    """JSON without line breaks, for output that goes on for ever."""
    return json.dumps(plain(value), separators=(",", ":"))


def plain_table(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Aligned columns under upper-case headings, two spaces apart; an empty cell is `-`."""
    table = [[column.upper() for column in columns]]
    table += [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)


def sentences(rows: Iterable[Row], columns: Sequence[str], width: int) -> str:
    """As `plain_table`, but that the last column has words, which go on beneath where they are wider than `width`."""
    lines = plain_table(rows, columns).split("\n")
    at = lines[0].rindex(columns[-1].upper())
    return "\n".join(
        line[:at] + f"\n{' ' * at}".join(folded(line[at:], max(LEAST_COLUMNS, width - at))) for line in lines
    )


def folded(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of whole words; one that is wider than `width` is not broken, as it may be a path or an address.

    `indent`: before all lines but the first.
    """
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def columns_here() -> int:
    """Of the terminal, or what COLUMNS says; 80 where there is none."""
    return shutil.get_terminal_size().columns


def cell(value: object) -> str:
    """A value in a table: one line, no control characters, `-` when there is none."""
    simple = plain(value)
    if simple is None or simple == "" or simple == []:
        return "-"
    if isinstance(simple, bool):
        return "yes" if simple else "no"
    if isinstance(simple, list):
        return ",".join(cell(item) for item in simple)
    if isinstance(simple, dict):
        return " ".join(f"{key}={cell(item)}" for key, item in simple.items())
    return one_line(str(simple))


def plain(value: object) -> Plain:
    """A value as JSON has it: addresses as text, enums by name, bytes in hex, dataclasses as objects."""
    if isinstance(value, Enum):
        return value.name.lower()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    return _plain_object(value)


def _plain_object(value: object) -> Plain:
    if isinstance(value, IPv4Address | IPv6Address):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    return str(value)


def one_line(text: str) -> str:
    """Text without line breaks and control characters, so that it stays where it is printed."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def duration(seconds: float) -> str:
    """The two largest units: `450ms`, `12s`, `1m30s`, `11h58m`, `3d2h`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    left = int(seconds)
    parts: list[str] = []
    for name, size in UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{name}" if count else "")
    return "".join(parts[:2])


def age(then_s: float | None, now_s: float) -> str:
    """How long ago, `never` without a time; a clock that jumped does not make it negative."""
    return "never" if then_s is None else duration(max(0.0, now_s - then_s))


def _rich_table(rows: Iterable[Row], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold cyan")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        # Text, not markup: a name from a manifest or a peer must not be read as a style.
        table.add_row(*(Text(cell(row.get(column))) for column in columns))
    return table
