"""How commands print: aligned text off a terminal, rich on one, JSON, durations, one-line errors."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from agent.cli import output
from agent.cli.output import CliError


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: bytes


class Pair(NamedTuple):
    left: int
    right: str


@pytest.mark.parametrize(
    ("value", "plain", "cell"),
    [
        (None, None, "-"),
        ("", "", "-"),
        (True, True, "yes"),
        (0, 0, "0"),
        (ip_address("fd00::1"), "fd00::1", "fd00::1"),
        (Colour.RED, "red", "red"),
        (b"\x0a\xff", "0aff", "0aff"),
        (Point(1, b"\x01"), {"x": 1, "y": "01"}, "x=1 y=01"),
        (Pair(1, "a"), {"left": 1, "right": "a"}, "left=1 right=a"),
        ([1, None], [1, None], "1,-"),
        ([], [], "-"),
        ({"b", "a"}, ["a", "b"], "a,b"),
        (Path("/x"), "/x", "/x"),
        ("two\nlines\x1b[31m", "two\nlines\x1b[31m", "two lines?[31m"),
    ],
)
def test_values_as_json_and_in_a_cell(value: object, plain: object, cell: str) -> None:
    assert output.plain(value) == plain
    json.dumps(output.plain(value))
    assert output.cell(value) == cell


def test_plain_table_is_aligned_and_has_no_trailing_blanks() -> None:
    rows = [{"pod": "default/web", "ip": ip_address("10.0.0.1")}, {"pod": "x", "ip": None}]
    assert output.plain_table(rows, ["pod", "ip"]) == "POD          IP\ndefault/web  10.0.0.1\nx            -"


def test_words_go_on_beneath_themselves_within_the_width_and_none_is_broken() -> None:
    rows = [
        {"check": "a b", "words": "one two " * 10 + "/a/path/that/is/longer/than/that"},
        {"check": "c", "words": ""},
    ]
    head, *told, last = output.sentences(rows, ["check", "words"], 40).split("\n")
    assert head == "CHECK  WORDS" and last == "c      -"
    assert told[0].startswith("a b    one two one") and all(line.startswith(" " * 7) for line in told[1:])
    assert max(map(len, told)) <= 40 and told[-1].endswith("/a/path/that/is/longer/than/that")
    assert " ".join(" ".join(told).split()) == "a b " + "one two " * 10 + "/a/path/that/is/longer/than/that"


def printed(rows: list[output.Row], form: str, **more: object) -> str:
    @click.command()
    def command() -> None:
        output.show("pods", rows, form, **more)

    result = CliRunner().invoke(command, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_json_has_every_field_and_tables_the_chosen_columns() -> None:
    rows = [{"pod": "a", "hidden": 1}]
    assert json.loads(printed(rows, "json", columns=["pod"])) == {"pods": rows}
    assert printed(rows, "table", columns=["pod"]) == "POD\na\n"
    assert printed(rows, "table") == "POD  HIDDEN\na    1\n"


def test_nothing_is_said_in_words_or_as_an_empty_list() -> None:
    assert printed([], "table", empty="(empty)") == "(empty)\n"
    assert json.loads(printed([], "json")) == {"pods": []}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "is_coloured"), [("1", False), (None, True)])
def test_a_terminal_gets_a_rich_table_and_no_color_is_respected(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, is_coloured: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    output.show_table([{"name": "[red]not a style[/red]"}])
    text = terminal.getvalue()
    assert "[red]not a style[/red]" in text
    assert "─" in text
    assert ("36m" in text) is is_coloured


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.4501, "450ms"),
        (1, "1s"),
        (59.9, "59s"),
        (60, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (3605, "1h"),
        (43_080, "11h58m"),
        (266_400, "3d2h"),
        (-90, "-1m30s"),
    ],
)
def test_durations_show_two_units(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_age_of_never_and_of_the_future() -> None:
    assert (output.age(None, 10), output.age(4, 10), output.age(11, 10)) == ("never", "6s", "0ms")


def test_an_error_is_one_line_with_status_1() -> None:
    @click.command()
    def command() -> None:
        raise CliError("cannot read\nthe maps:\x07 not root")

    result = CliRunner().invoke(command)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Error: cannot read the maps:? not root"]


def test_the_output_option_refuses_another_format() -> None:
    @click.command()
    @output.output_option
    def command(output: str) -> None:
        click.echo(output)

    assert CliRunner().invoke(command, ["-o", "json"]).output == "json\n"
    assert CliRunner().invoke(command, ["-o", "yaml"]).exit_code == 2
