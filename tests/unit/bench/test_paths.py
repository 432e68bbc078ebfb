"""The paths inside of a node side by side: ratios within rounds, and what is missed by name."""

from tests.bench.paths import misses, table

SAMPLES = {
    "hbone": {"upload_1": [0.1, 0.4], "p50_1": [300.0, 900.0], "cpu_upload_1": [4.0, 2.0]},
    "host": {"upload_1": [0.4, 1.6], "p50_1": [90.0, 270.0], "cpu_upload_1": [1.0, 0.5]},
    "handover": {"upload_1": [0.5, 2.0], "p50_1": [90.0, 270.0], "cpu_upload_1": [1.0, 0.5]},
    "direct": {"upload_1": [1.0, 2.0], "p50_1": [30.0, 90.0]},
}


def test_ratios_are_those_of_rounds() -> None:
    lines = table(SAMPLES).splitlines()
    assert lines[2].endswith("| 0.25 | 1.00 | 1.25 | 1.50 | 4.00 | 5.00 | 7.50 |")
    assert lines[-1].endswith("| 3.00 | 0.75 | 0.75 |  | 0.25 | 0.25 |  |"), "nobody carries what is direct"


def test_what_is_slow_and_what_was_not_measured_is_named() -> None:
    missed = misses(SAMPLES | {"host": {"upload_1": [0.2, 0.8], "p50_1": [180.0, 540.0]}})
    assert "upload_1: host is 2.00 x hbone, target at least 2.5" in missed
    assert "p50_1: host is 0.60 x hbone, target at most 0.5" in missed
    assert sum("not measured" in line for line in missed) == 3
