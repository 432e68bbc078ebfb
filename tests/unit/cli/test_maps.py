"""`ztun maps` over maps of a known content: list, dump, lookup, watch, and its one-line errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.cli.maps import Reader, maps
from agent.cli.output import CliError, Row


@dataclass
class FakeMap:
    name: str
    kind: str = "hash"
    capacity: int = 64
    content: list[tuple[Row, Row]] = field(default_factory=list)
    shown: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        return self.shown or tuple(
            dict.fromkeys(name for key, value in self.content for name in (*key, *value))
        )

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
EMPTY = FakeMap("passthru", "lru_hash", shown=("source", "until_s"))
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


def row(number: int) -> tuple[Row, Row]:
    key: Row = {"address": ip_address("10.1.0.0") + number}
    return key, {"ifindex": number % 100, "flags": ["enrolled"] if number % 2 else ["enrolled", "drain"]}


MANY = FakeMap("pods", content=[row(number) for number in range(10_000)])
OWNERS = FakeMap(
    "owners", content=[({"ifindex": 7}, {"owner": "demo/web 1-2-3"}), ({"ifindex": 8}, {"owner": ""})]
)


@contextmanager
def open_many(_: str, run_dir: object = None) -> Iterator[Mapping[str, FakeMap]]:
    yield {"pods": MANY, "owners": OWNERS}


def chosen(*arguments: str) -> Result:
    return run("dump", "pods", *arguments, reader=Reader(open_many))


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (["ifindex=7"], 100),
        (["ifindex!=7"], 9900),
        (["ifindex=7", "flags!=drain"], 100),
        (["ifindex=8", "flags!=drain"], 0),
        (["address=10.1.0.0/24"], 256),
        (["address=10.1.0.7"], 1),
        (["address=::ffff:10.1.0.7"], 0),
        (["address=10.1.*.7"], 40),
        (["flags=dra*"], 5000),
    ],
)
def test_of_many_entries_those_that_are_asked_for(where: list[str], count: int) -> None:
    result = chosen(*(part for each in where for part in ("--where", each)), "-o", "json")
    assert len(json.loads(result.stdout)["pods"]) == count


@pytest.mark.parametrize("command", [["dump"], ["watch", "--rounds", "1"]])
def test_a_field_that_is_not_there_is_refused_also_where_no_entry_is(command: list[str]) -> None:
    asked = (*command, "passthru", "--where")
    assert run(*asked, "source=10.0.0.1").exit_code == 0
    result = run(*asked, "surce=10.0.0.1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no field 'surce'; there are source, until_s" in result.stderr


def test_what_is_left_out_is_counted_and_never_in_silence() -> None:
    lines = chosen("--where", "ifindex=7", "--limit", "2").output.splitlines()
    assert [line.split()[0] for line in lines] == ["ADDRESS", "10.1.0.7", "10.1.0.107", "(98"]
    assert lines[-1] == "(98 more)"
    answer = json.loads(chosen("--limit", "3", "-o", "json").output)
    assert (len(answer["pods"]), answer["pods_left_out"]) == (3, 9997)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["dump", "pods", "--where", "ifindx=7"],
            "there is no field 'ifindx'; there are address, ifindex, flags",
        ),
        (["dump", "pods", "--where", "ifindex"], "'ifindex' is not FIELD=VALUE or FIELD!=VALUE"),
        (["dump", "--where", "ifindex=7"], "--where is about the fields of one map: name it"),
        (["watch", "pods", "--table", "-o", "json"], "--table is for people"),
        (["watch", "pods", "--limit", "2"], "--limit goes with --table"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(arguments: list[str], says: str) -> None:
    result = run(*arguments, reader=Reader(open_many))
    assert result.exit_code != 0 and says in result.stderr


def test_wide_says_whose_an_interface_is() -> None:
    lines = chosen("--where", "address=10.1.0.[678]", "-o", "wide").output.splitlines()
    assert [line.split()[-1] for line in lines] == ["POD", "-", "demo/web", "-"]


def test_yaml_is_what_json_is() -> None:
    asked = ("--where", "address=10.1.0.7")
    assert yaml.safe_load(chosen(*asked, "-o", "yaml").output) == json.loads(
        chosen(*asked, "-o", "json").output
    )


def test_maps_have_names_that_people_know() -> None:
    assert run("dump", "flows").output == run("dump", "hostflows").output != ""


def test_drops_have_their_rates() -> None:
    program, reason = "from_pod", "SPOOFED"
    counted = [
        ({"program": program, "reason": reason}, {"packets": 10}),
        ({"program": program, "reason": "PROXY"}, {"packets": 99}),
    ]
    live = FakeMap("stats", content=list(counted))
    times = iter([100.0, 102.0])

    @contextmanager
    def opened(_: str, run_dir: object) -> Iterator[Mapping[str, FakeMap]]:
        yield {"stats": live}

    def sleep(_: float) -> None:
        live.content[0] = (live.content[0][0], {"packets": 15})

    result = run("drops", "-o", "json", reader=Reader(opened, sleep=sleep, clock=lambda: next(times)))
    assert json.loads(result.output)["drops"] == [
        {"program": program, "reason": reason, "packets": 15, "per_s": 2.5}
    ]


def test_watch_shows_the_whole_table_anew() -> None:
    live = FakeMap("live", content=[({"k": 1}, {"v": 1}), ({"k": 2}, {"v": 1})])

    @contextmanager
    def opened(_: str, run_dir: object) -> Iterator[Mapping[str, FakeMap]]:
        yield {"live": live}

    def sleep(_: float) -> None:
        live.content = []

    result = run(
        "watch", "live", "--table", "--rounds", "2", "--where", "k=2", reader=Reader(opened, sleep=sleep)
    )
    assert result.output == "K  V\n2  1\n(empty)\n"
