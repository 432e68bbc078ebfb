"""`ztun maps` over maps of a known content: list, dump, lookup, watch, and its one-line errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from click.testing import CliRunner, Result

from agent.cli.maps import Reader, maps
from agent.cli.output import CliError, Row


@dataclass
class FakeMap:
    name: str
    kind: str = "hash"
    capacity: int = 64
    content: list[tuple[Row, Row]] = field(default_factory=list)

    def entries(self) -> list[tuple[Row, Row]]:
        return list(self.content)


PODS = FakeMap(
    "pods",
    content=[
        ({"address": ip_address("10.0.0.1")}, {"flags": ["enrolled"], "ifindex": 7}),
        ({"address": ip_address("fd00::1")}, {"flags": ["enrolled", "drain"], "ifindex": 7}),
    ],
)
FLOWS = FakeMap(
    "hostflows", "lru_hash", 65536, [({"src": "10.0.0.9", "dst": "10.0.0.1", "dport": 80}, {"ns": 5})]
)
EMPTY = FakeMap("passthru", "lru_hash")
MAPS = {each.name: each for each in (PODS, FLOWS, EMPTY)}


@contextmanager
def open_fake(instance: str, run_dir: object = None) -> Iterator[Mapping[str, FakeMap]]:
    if instance != "ztun":
        raise CliError(f"no pins of instance {instance}")
    yield MAPS


def run(*arguments: str, reader: Reader | None = None) -> Result:
    return CliRunner().invoke(maps, arguments, obj=reader or Reader(open_fake))


LIST = """NAME       KIND      ENTRIES  CAPACITY
pods       hash      2        64
hostflows  lru_hash  1        65536
passthru   lru_hash  0        64
"""


@pytest.mark.parametrize("arguments", [[], ["list"], ["list", "--instance", "ztun"], ["--instance", "ztun"]])
def test_list_shows_fill_of_every_map(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.output) == (0, LIST)


def test_dump_prints_the_decoded_entries() -> None:
    assert run("dump", "pods").output == (
        "ADDRESS   FLAGS           IFINDEX\n"
        "10.0.0.1  enrolled        7\n"
        "fd00::1   enrolled,drain  7\n"
    )  # fmt: skip


def test_dump_of_everything() -> None:
    assert json.loads(run("dump", "-o", "json").output) == {
        "pods": [
            {"address": "10.0.0.1", "flags": ["enrolled"], "ifindex": 7},
            {"address": "fd00::1", "flags": ["enrolled", "drain"], "ifindex": 7},
        ],
        "hostflows": [{"src": "10.0.0.9", "dst": "10.0.0.1", "dport": 80, "ns": 5}],
        "passthru": [],
    }
    text = run("dump").output
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# pods",
        "# hostflows",
        "# passthru",
    ]
    assert text.endswith("(empty)\n")


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("pods", "10.0.0.1", ["10.0.0.1"]),
        ("pods", "::ffff:10.0.0.1", ["10.0.0.1"]),
        ("pods", "FD00:0::1", ["fd00::1"]),
    ],
)
def test_lookup_knows_every_way_to_write_an_address(name: str, key: str, expected: list[str]) -> None:
    rows = json.loads(run("lookup", name, key, "-o", "json").output)[name]
    assert [row["address"] for row in rows] == expected


@pytest.mark.parametrize("key", ["10.0.0.9", "10.0.0.1", "80", "10.0.0.9 10.0.0.1 80"])
def test_lookup_takes_one_field_of_a_key_or_all(key: str) -> None:
    assert "10.0.0.9  10.0.0.1  80     5" in run("lookup", "hostflows", key).output


def test_lookup_does_not_match_values() -> None:
    assert run("lookup", "pods", "7").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lookup", "pods", "10.0.0.2"], "map pods has no entry for 10.0.0.2"),
        (["dump", "pod"], "no map 'pod'; there are pods, hostflows, passthru"),
        (["watch", "nope"], "no map 'nope'; there are pods, hostflows, passthru"),
        (["--instance", "other"], "no pins of instance other"),
        (["dump", "--instance", "other"], "no pins of instance other"),
        (["--instance", "ztun", "list", "--instance", "other"], "no pins of instance other"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {message}\n"


def watched(output: str) -> str:
    live = FakeMap("live", content=[({"k": 1}, {"v": 1}), ({"k": 2}, {"v": 1})])
    states = iter([[({"k": 1}, {"v": 2}), ({"k": 3}, {"v": 1})], [({"k": 3}, {"v": 1})]])

    @contextmanager
    def opened(_: str, run_dir: object) -> Iterator[Mapping[str, FakeMap]]:
        yield {"live": live}

    def sleep(seconds: float) -> None:
        assert seconds == 0.5
        live.content = next(states)

    arguments = ["watch", "live", "--interval", "0.5", "--rounds", "3", "-o", output]
    result = run(*arguments, reader=Reader(opened, sleep=sleep))
    assert result.exit_code == 0
    return result.output


def test_watch_prints_what_changed() -> None:
    assert watched("table").splitlines() == [
        "+ k=1 v=1",
        "+ k=2 v=1",
        "+ k=3 v=1",
        "~ k=1 v=2",
        "- k=2 v=1",
        "- k=1 v=2",
    ]


def test_watch_prints_an_object_a_line() -> None:
    lines = [json.loads(line) for line in watched("json").splitlines()]
    assert lines[3] == {"change": "~", "k": 1, "v": 2}
