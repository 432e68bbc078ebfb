"""`ztun maps`: the pinned kernel maps, decoded. Needs neither an agent nor a compiler.

Reads through `agent.cli.pinned`; knows how to select and print rows, not what a map means. `lookup` takes the
text that the table prints for a key, or for one of its fields.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from agent.cli.kinds import Seconds
from agent.cli.output import CliError, Row, cell, json_line, output_option, plain, show, show_json, show_table
from agent.cli.pinned import NAMES, PinnedMap, open_pinned
from agent.cli.which import DEFAULT_INSTANCE, which_of

EMPTY = "(empty)"


Fields = dict[str, object]
OpenMaps = Callable[[str, Path | None], AbstractContextManager[Mapping[str, PinnedMap]]]
"""Opens the maps of an instance; raises CliError when they cannot be read."""


@dataclass
class Reader:
    """What the commands need: where maps come from, of which instance, and how to wait."""

    open_maps: OpenMaps
    instance: str = DEFAULT_INSTANCE
    run_dir: Path | None = None
    sleep: Callable[[float], None] = time.sleep

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
    return [name for name in NAMES if name.startswith(incomplete)]


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@instance_option
@output_option
@click.pass_context
def maps(context: click.Context, output: str) -> None:
    """Show the pinned kernel maps, also while no agent runs."""
    if context.invoked_subcommand is None:
        _list(context.obj, output)


@maps.command("list")
@instance_option
@output_option
@click.pass_obj
def list_(reader: Reader, output: str) -> None:
    """List names, kinds and fill of all maps."""
    _list(reader, output)


@maps.command()
@click.argument("name", metavar="[MAP]", required=False, shell_complete=complete_map)
@instance_option
@output_option
@click.pass_obj
def dump(reader: Reader, name: str | None, output: str) -> None:
    """Show every entry of MAP, or of all maps."""
    with reader.pinned() as pinned:
        if name is not None:
            show(name, _rows(_named(pinned, name)), output, empty=EMPTY)
        elif output == "json":
            show_json({each.name: _rows(each) for each in pinned.values()})
        else:
            for each in pinned.values():
                click.echo(f"# {each.name}")
                show_table(_rows(each), empty=EMPTY)


@maps.command()
@click.argument("name", metavar="MAP", shell_complete=complete_map)
@click.argument("key")
@instance_option
@output_option
@click.pass_obj
def lookup(reader: Reader, name: str, key: str, output: str) -> None:
    """Show the entries of MAP whose key, or a field of it, is KEY."""
    with reader.pinned() as pinned:
        pairs = _pairs(_named(pinned, name))
        found: list[Row] = [fields | value for fields, value in pairs if _matches(fields, key)]
    if not found:
        raise CliError(f"map {name} has no entry for {key}")
    show(name, found, output)


@maps.command()
@click.argument("name", metavar="MAP", shell_complete=complete_map)
@click.option(
    "--interval",
    "interval_s",
    type=Seconds(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--rounds", type=click.IntRange(1), help="Stop after so many looks instead of at Ctrl-C.")
@instance_option
@output_option
@click.pass_obj
def watch(reader: Reader, name: str, interval_s: float, rounds: int | None, output: str) -> None:
    """Show changes of MAP as they happen.

    A line for each entry that came (+), changed (~) or went (-), until Ctrl-C.
    """
    with reader.pinned() as pinned:
        for number, changes in enumerate(_changes(_named(pinned, name)), start=1):
            for sign, row in changes:
                click.echo(json_line({"change": sign, **row}) if output == "json" else f"{sign} {cell(row)}")
            if number == rounds:
                return
            reader.sleep(interval_s)


def _list(reader: Reader, output: str) -> None:
    with reader.pinned() as pinned:
        rows: list[Row] = [
            {"name": m.name, "kind": m.kind, "entries": sum(1 for _ in m.entries()), "capacity": m.capacity}
            for m in pinned.values()
        ]
    show("maps", rows, output)


def _named(pinned: Mapping[str, PinnedMap], name: str) -> PinnedMap:
    if name not in pinned:
        raise CliError(f"no map {name!r}; there are {', '.join(pinned)}")
    return pinned[name]


def _pairs(source: PinnedMap) -> Iterator[tuple[Fields, Fields]]:
    """Entries with plain values; a value field that is called like a key field does not hide it."""
    for key, value in source.entries():
        shown: Fields = {name: plain(item) for name, item in key.items()}
        yield shown, {name: plain(item) for name, item in value.items() if name not in shown}


def _rows(source: PinnedMap) -> list[Row]:
    return [key | value for key, value in _pairs(source)]


def _matches(key: Row, wanted: str) -> bool:
    texts = {cell(item) for item in key.values()} | {" ".join(cell(item) for item in key.values())}
    return _canonical(wanted) in texts


def _canonical(text: str) -> str:
    """An address as the table prints it, anything else as it is."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


def _changes(source: PinnedMap) -> Iterator[list[tuple[str, Fields]]]:
    """What differs from the look before; at first, every entry."""
    before: dict[str, tuple[Fields, Fields]] = {}
    while True:
        now = {" ".join(map(cell, key.values())): (key, value) for key, value in _pairs(source)}
        came = [("+", key | value) for name, (key, value) in now.items() if name not in before]
        went = [("-", key | value) for name, (key, value) in before.items() if name not in now]
        changed = [
            ("~", key | value)
            for name, (key, value) in now.items()
            if name in before and before[name][1] != value
        ]
        yield came + changed + went
        before = now
