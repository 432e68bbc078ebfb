"""When the next fetch is due: rows of docs/WIRE.md#certificates."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.schedule import RETRY, Priority, renewal_time, retry_time
from agent.model.backoff import Backoff


@pytest.mark.parametrize(
    ("not_before", "not_after", "now", "expected"),
    [
        (0, 86_400, 0, 43_200),
        (-120, 86_400, 0, 43_140),
        (-120, 60, 0, 30),  # half has passed: half of what is left
        (-120, 1, 0, 1),  # never at once, however little is left
        (0, 1, 0, 1),
    ],
)
def test_renewal_at_half_of_the_lifetime(not_before: int, not_after: int, now: int, expected: int) -> None:
    assert renewal_time(not_before, not_after, now) == expected


@pytest.mark.parametrize(
    ("failures", "nominal_s"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 150), (10, 150), (100_000, 150)]
)
def test_retries_double_to_a_cap_with_a_fifth_of_jitter(failures: int, nominal_s: float) -> None:
    draws = [retry_time(1000.0, failures, None, Random(seed)) - 1000.0 for seed in range(200)]
    assert 0.8 * nominal_s <= min(draws) < 0.85 * nominal_s
    assert 1.15 * nominal_s < max(draws) <= 1.2 * nominal_s


@pytest.mark.parametrize(("not_after", "at_most"), [(1050.0, 1050.0), (None, 1180.0), (999.0, 1180.0)])
def test_a_retry_is_not_later_than_the_expiry_of_what_is_held(
    not_after: float | None, at_most: float
) -> None:
    due = retry_time(1000.0, 20, not_after, Random(1))
    assert due == at_most if not_after == 1050.0 else 1120 <= due <= at_most


@given(st.integers(1, 10**6), st.randoms(use_true_random=False))
def test_a_delay_is_never_zero_nor_above_the_cap(failures: int, rng: Random) -> None:
    assert 0 < RETRY.delay_s(failures, rng) <= RETRY.cap_s * (1 + RETRY.jitter)


def test_a_delay_without_a_failure_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 is none"):
        Backoff(1, 2).delay_s(0, Random())


def test_who_waits_goes_first() -> None:
    assert Priority.REALTIME < Priority.WARMUP < Priority.BACKGROUND
