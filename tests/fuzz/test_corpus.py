"""What `scripts/fuzz` has found to run every parser's code, once more: inputs of each, and those that broke it once."""

from __future__ import annotations

import pytest

from tests.fuzz.parsers import CORPUS, NAMES, check_of, corpus_of


@pytest.mark.parametrize("name", NAMES)
def test_each_input_is_read_or_refused_in_order(name: str) -> None:
    inputs = corpus_of(name)
    assert inputs
    for data in (b"", *inputs):
        check_of(name)(data)


def test_the_corpus_is_of_parsers_that_there_are_and_small() -> None:
    files = list(CORPUS.iterdir())
    assert {path.stem for path in files} == set(NAMES)
    assert sum(path.stat().st_size for path in files) < 200_000
