"""`ztun maps`: the pinned kernel maps, decoded. Needs neither an agent nor a compiler.

Reads through `agent.cli.pinned`; knows how to select and print rows, not what a map means. `lookup` takes the
text that the table prints for a key, or for one of its fields.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from agent.cli import map_rows
from agent.cli.kinds import Seconds
from agent.cli.output import (
    CliError,
    Row,
    cell,
    json_line,
    output_option,
    plain_table,
    rows_option,
    show,
    show_table,
    show_value,
)
from agent.cli.pinned import NAMES, PinnedMap, open_pinned
from agent.cli.selection import Selection, selection_options
from agent.cli.which import DEFAULT_INSTANCE, which_of

EMPTY = "(empty)"
ALIASES = {"interfaces": "ifaces", "listeners": "socks", "host-addresses": "hostips", "flows": "hostflows"}
"""Names that say more than those of the kernel, which has room for 15 letters."""


OpenMaps = Callable[[str, Path | None], AbstractContextManager[Mapping[str, PinnedMap]]]
"""Opens the maps of an instance; raises CliError when they cannot be read."""


@dataclass
class Reader:
    """What the commands need: where maps come from, of which instance, and how to wait."""

    open_maps: OpenMaps
    instance: str = DEFAULT_INSTANCE
    run_dir: Path | None = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def pinned(self) -> AbstractContextManager[Mapping[str, PinnedMap]]:
        return self.open_maps(self.instance, self.run_dir)


def _choose(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """`--instance`, `--run-dir` and `--lab` count before and after the name of the sub-command; the last one wins."""
    if context.obj is None:
        context.obj = Reader(open_pinned)
    if value is not None and parameter.name == "run_dir":
        context.obj.run_dir = Path(value)
    elif value is not None and parameter.name == "lab":
        node = which_of(None, None, value)
        context.obj.instance, context.obj.run_dir = node.instance, node.run_dir
    elif value is not None:
        context.obj.instance = value


Command = TypeVar("Command", bound=Callable[..., object])


def instance_option(command: Command) -> Command:
    """Adds the options that say which ztun of this machine."""
    instance = click.option(
        "--instance",
        metavar="NAME",
        callback=_choose,
        expose_value=False,
        help=f"Which ztun of this machine.  [default: {DEFAULT_INSTANCE}]",
    )
    run_dir = click.option(
        "--run-dir",
        metavar="DIR",
        callback=_choose,
        expose_value=False,
        help="Its run directory, where it is not /run/ztun/INSTANCE.",
    )
    lab = click.option(
        "--lab",
        metavar="NAME/NODE",
        callback=_choose,
        expose_value=False,
        help="That of a node of a lab, in place of the two above.",
    )
    return instance(run_dir(lab(command)))


def complete_map(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in (*NAMES, *ALIASES) if name.startswith(incomplete)]


interval_option = click.option(
    "--interval",
    "interval_s",
    type=Seconds(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@instance_option
@rows_option
@click.pass_context
def maps(context: click.Context, output: str) -> None:
    """Show the pinned kernel maps, also while no agent runs."""
    if context.invoked_subcommand is None:
        _list(context.obj, output)


@maps.command("list")
@instance_option
@rows_option
@click.pass_obj
def list_(reader: Reader, output: str) -> None:
    """List names, kinds and fill of all maps."""
    _list(reader, output)


@maps.command()
@click.argument("name", metavar="[MAP]", required=False, shell_complete=complete_map)
@selection_options
@instance_option
@rows_option
@click.pass_obj
def dump(reader: Reader, name: str | None, selection: Selection, output: str) -> None:
    """Show every entry of MAP, or of all maps."""
    with reader.pinned() as pinned:
        if name is None and selection.conditions:
            raise click.UsageError("--where is about the fields of one map: name it")
        chosen = list(pinned.values()) if name is None else [_named(pinned, name)]
        owners = map_rows.owners(pinned) if output == "wide" else {}
        for each in chosen:
            selection.check(map_rows.fields(each, owners))
        found = {each.name: selection.of(map_rows.rows(each, owners)) for each in chosen}
    if output in ("json", "yaml"):
        left_out: dict[str, object] = {
            f"{map_name}_left_out": more for map_name, (_, more) in found.items() if more
        }
        show_value({**{map_name: rows for map_name, (rows, _) in found.items()}, **left_out}, output)
        return
    for map_name, (rows, more) in found.items():
        if name is None:
            click.echo(f"# {map_name}")
        show_table(rows, empty=EMPTY, is_folded=output != "wide")
        if more:
            click.echo(f"({more} more)")


@maps.command()
@click.argument("name", metavar="MAP", shell_complete=complete_map)
@click.argument("key")
@instance_option
@rows_option
@click.pass_obj
def lookup(reader: Reader, name: str, key: str, output: str) -> None:
    """Show the entries of MAP whose key, or a field of it, is KEY."""
    with reader.pinned() as pinned:
        source = _named(pinned, name)
        owners = map_rows.owners(pinned) if output == "wide" else {}
        found: list[Row] = [
            map_rows.wide(fields | value, owners)
            for fields, value in map_rows.pairs(source)
            if map_rows.matches(fields, key)
        ]
    if not found:
        raise CliError(f"map {source.name} has no entry for {key}")
    show(source.name, found, output)


@maps.command()
@interval_option
@click.option("--all", "has_all", is_flag=True, help="Other exits of the programs too.")
@instance_option
@rows_option
@click.pass_obj
def drops(reader: Reader, interval_s: float, has_all: bool, output: str) -> None:
    """Show where packets end, and how many a second.

    By program and reason. They are counted twice, so it takes as long as the interval.
    """
    with reader.pinned() as pinned:
        source = _named(pinned, "stats")
        before, begun = map_rows.counts(source, has_all=has_all), reader.clock()
        reader.sleep(interval_s)
        now, past_s = map_rows.counts(source, has_all=has_all), reader.clock() - begun
    show("drops", map_rows.rates(before, now, past_s), output, empty="no packet was dropped")


@maps.command()
@click.argument("name", metavar="MAP", shell_complete=complete_map)
@interval_option
@click.option("--rounds", type=click.IntRange(1), help="Stop after so many looks instead of at Ctrl-C.")
@click.option(
    "--table", "is_table", is_flag=True, help="The whole table anew with each look, in place of changes."
)
@selection_options
@instance_option
@output_option
@click.pass_obj
def watch(
    reader: Reader,
    name: str,
    interval_s: float,
    rounds: int | None,
    is_table: bool,
    selection: Selection,
    output: str,
) -> None:
    """Show changes of MAP as they happen.

    A line for each entry that came (+), changed (~) or went (-), until Ctrl-C.
    """
    if is_table and output == "json":
        raise click.UsageError("--table is for people: `-o json` tells changes, an object a line")
    if selection.limit is not None and not is_table:
        raise click.UsageError("--limit goes with --table: of changes all are told")
    with reader.pinned() as pinned:
        source = _named(pinned, name)
        selection.check(source.fields)
        for number, shown in enumerate(
            _tables(source, selection) if is_table else _lines(source, selection, output), 1
        ):
            click.echo(shown, nl=False)
            if number == rounds:
                return
            reader.sleep(interval_s)


def _tables(source: PinnedMap, selection: Selection) -> Iterator[str]:
    """The table as it is, on a screen that is cleared before."""
    clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
    while True:
        rows, more = selection.of(map_rows.rows(source, {}))
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = plain_table(rows, columns) if rows else EMPTY
        yield f"{clear}{text}\n" + (f"({more} more)\n" if more else "")


def _lines(source: PinnedMap, selection: Selection, output: str) -> Iterator[str]:
    for changes in map_rows.changes(source):
        lines = (
            json_line({"change": sign, **row}) if output == "json" else f"{sign} {cell(row)}"
            for sign, row in changes
            if all(condition.holds(row) for condition in selection.conditions)
        )
        yield "".join(f"{line}\n" for line in lines)


def _list(reader: Reader, output: str) -> None:
    with reader.pinned() as pinned:
        rows: list[Row] = [
            {"name": m.name, "kind": m.kind, "entries": sum(1 for _ in m.entries()), "capacity": m.capacity}
            for m in pinned.values()
        ]
    show("maps", rows, output)


def _named(pinned: Mapping[str, PinnedMap], name: str) -> PinnedMap:
    found = pinned.get(ALIASES.get(name, name))
    if found is None:
        raise CliError(f"no map {name!r}; there are {', '.join(pinned)}")
    return found
