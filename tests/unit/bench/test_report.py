"""The bench's verdict: ratios of medians, targets missed by name, value and bound, and the table."""

from __future__ import annotations

import tomllib

import pytest

from tests.bench.report import (
    TARGETS,
    Target,
    TargetsError,
    document,
    measured,
    medians,
    misses,
    ratio,
    read_targets,
    table,
)

# The machine was twice as fast in the second round, and something went wrong for ztun in the third.
SAMPLES = {
    "ztun": {"upload_1": [1.2, 2.4, 0.1], "cpu_handshake": [900.0]},
    "envoy": {"upload_1": [1.0, 2.0, 2.0], "cpu_handshake": [1000.0]},
    "direct": {"upload_1": [4.0, 8.0, 4.0]},
}


def test_ratios_are_taken_round_by_round_so_that_drift_and_one_bad_round_do_not_decide() -> None:
    assert ratio(SAMPLES, "upload_1", "envoy") == pytest.approx(1.2)
    assert ratio(SAMPLES, "upload_1", "direct") == pytest.approx(0.3)
    assert ratio(SAMPLES, "cpu_handshake", "direct") is None
    assert medians(SAMPLES)["envoy"]["upload_1"] == 2.0


@pytest.mark.parametrize(
    ("target", "missed"),
    [
        (Target(("upload_1",), at_least=1.1), []),
        (
            Target(("upload_1",), at_least=1.3),
            ["upload_1 (upload, 1 stream): 1.20 x Envoy, target at least 1.30"],
        ),
        (Target(("cpu_handshake",), at_most=1.0), []),
        (
            Target(("cpu_handshake",), at_most=0.8),
            ["cpu_handshake (CPU per handshake, server only): 0.90 x Envoy, target at most 0.80"],
        ),
        (
            Target(("connect",), at_least=1.3),
            ["connect (new connections): not measured, target at least 1.30"],
        ),
    ],
)
def test_a_missed_target_is_named_with_value_and_bound(target: Target, missed: list[str]) -> None:
    assert misses(SAMPLES, [target]) == missed


def test_what_was_left_out_on_purpose_misses_no_target_and_what_was_measured_still_may() -> None:
    targets = measured(
        SAMPLES, [Target(("connect",), at_least=1.3), Target(("upload_1", "upload_8"), at_least=1.3)]
    )
    assert [line.split()[0] for line in misses(SAMPLES, targets)] == ["upload_1"]


def test_the_targets_file_covers_what_the_issue_asks() -> None:
    targets = read_targets(tomllib.loads(TARGETS.read_text()))
    bounds = {metric: (t.at_least, t.at_most) for t in targets if t.to == "envoy" for metric in t.metrics}
    assert bounds["upload_1"] == bounds["download_8"] == (1.2, None)
    assert (bounds["connect"], bounds["cpu_connect"]) == ((0.95, None), (None, 1.2))
    assert (bounds["cpu_handshake"], bounds["p50_1"], bounds["p99_half"]) == (
        (None, 1.6),
        (None, 1.05),
        (None, 1.0),
    )
    assert (bounds["memory_rest"], bounds["memory_idle"]) == ((None, 1.6), (None, 0.17))


def test_a_bound_for_one_commit_counts_in_a_run_against_that_one() -> None:
    (target,) = read_targets(
        {"mine": {"metrics": ["upload_1"], "at_least": 1.0, "to": "before", "commit": "aefe40e"}}
    )
    assert target.is_for("aefe40ec9f7c2cd7fca005a3245862674325e11f", 2)
    assert not target.is_for("b816865", 2) and not target.is_for("", 2)
    assert Target(("upload_1",), at_least=1.0).is_for("", 2)
    assert not Target(("upload_1",), at_least=1.0, workers=4).is_for("", 2)
    assert not Target(("upload_1",), at_least=1.0, bench="another").is_for("", 2)


def test_an_aim_is_shown_and_nothing_fails_for_it() -> None:
    (target,) = read_targets({"mine": {"metrics": ["upload_1"], "at_least": 1.1, "aim": 1.35}})
    assert not misses(SAMPLES, [target])
    assert ">= 1.10 (aim 1.35)" in table(SAMPLES, [target])


@pytest.mark.parametrize(
    "entry",
    [
        {"metrics": ["uplaod_1"], "at_least": 1.0},
        {"metrics": ["upload_1"]},
        {"metrics": ["upload_1"], "at_least": 1.0, "at_most": 2.0},
        {"metrics": ["upload_1"], "at_least": 1.0, "to": "nobody"},
        {"metrics": ["upload_1"], "at_least": 1.0, "aims": 2.0},
    ],
)
def test_a_wrong_targets_file_is_refused_by_section(entry: dict[str, object]) -> None:
    with pytest.raises(TargetsError, match=r"\[mine\]"):
        read_targets({"mine": entry})


def test_a_metric_that_is_a_ratio_already_has_a_bound_of_its_own() -> None:
    samples = {"ztun": {"stalled_12": [1.0, 2.5, 9.0]}, "envoy": {"stalled_12": [900.0] * 3}}
    target = Target(("stalled_12",), at_most=2.0, to="itself")
    assert misses(samples, [target]) == [
        "stalled_12 (p99 beside 12 stalled / quiet): 2.50, target at most 2.00"
    ]
    (row,) = [line for line in table(samples, [target]).splitlines() if "12 stalled" in line]
    assert row.rstrip(" |").endswith("| <= 2.00")
    assert not misses(samples, [Target(("stalled_12",), at_most=2.6, to="itself")])


def test_the_table_has_a_row_for_every_metric_that_was_measured_and_shows_the_target() -> None:
    lines = table(SAMPLES, [Target(("upload_1",), at_least=1.1)]).splitlines()
    measured = {metric for values in SAMPLES.values() for metric in values}
    assert len(lines) == len(measured) + 2
    assert len({line.count("|") for line in lines}) == 1
    (upload,) = [line for line in lines if "upload, 1 stream" in line and "CPU" not in line]
    cells = [cell.strip() for cell in upload.strip("|").split("|")]
    assert cells == ["upload, 1 stream", "GB/s", "1.20", "2.00", "4.00", "1.20", "0.30", ">= 1.10"]


def test_an_earlier_build_is_a_column_of_its_own_with_its_own_bounds() -> None:
    samples = {**SAMPLES, "before": {"upload_1": [1.0, 1.0, 1.0]}}
    slower = Target(("upload_1",), at_least=1.3, to="before")
    header, _, *lines = table(samples, [Target(("upload_1",), at_least=1.1), slower]).splitlines()
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    row = dict(zip(titles, cells, strict=True))
    assert (row["before"], row["ztun/before"]) == ("1.00", "1.20")
    assert row["target"] == ">= 1.10, >= 1.30 before"
    assert misses(samples, [slower]) == ["upload_1 (upload, 1 stream): 1.20 x before, target at least 1.30"]
    assert not misses(SAMPLES, [slower]), "nothing is missed against a build that did not run"


def test_the_document_keeps_every_sample() -> None:
    made = document(SAMPLES, {"cores": 2}, ["x"])
    assert made["samples"] == SAMPLES
    assert made["medians"]["ztun"]["upload_1"] == 1.2
    assert made["ratios"]["ztun/direct"]["upload_1"] == pytest.approx(0.3)
    assert (made["about"], made["missed"]) == ({"cores": 2}, ["x"])
