"""Entries of maps, read many at a time, are those that the kernel has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from redirect import sys_bpf

pytestmark = pytest.mark.kernel
HASH, ARRAY, LRU_HASH = 1, 2, 9
ENTRIES = 3000


@pytest.fixture(params=[HASH, LRU_HASH], ids=["hash", "lru"])
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[int, dict[bytes, bytes]]]:
    """A map, and what was put into it."""
    fd = sys_bpf.map_create(request.param, "items", key_size=6, value_size=12, max_entries=2 * ENTRIES)
    wanted = {number.to_bytes(6, "big"): number.to_bytes(12, "little") for number in range(ENTRIES)}
    for key, value in wanted.items():
        sys_bpf.map_update(fd, key, value)
    yield fd, wanted
    os.close(fd)


@pytest.mark.parametrize("at_once", [1, 7, 512, 2 * ENTRIES])
def test_every_entry_comes_once(
    filled: tuple[int, dict[bytes, bytes]], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(sys_bpf, "BATCH_ENTRIES", at_once)
    fd, wanted = filled
    found = list(sys_bpf.map_items(fd, 6, 12))
    assert len(found) == len(wanted) and dict(found) == wanted


def test_a_map_that_cannot_do_that_is_read_one_by_one(
    filled: tuple[int, dict[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> Iterator[tuple[bytes, bytes]]:
        raise OSError(sys_bpf.ENOTSUPP, "not supported")
        yield

    monkeypatch.setattr(sys_bpf, "_map_batches", refused)
    fd, wanted = filled
    assert dict(sys_bpf.map_items(fd, 6, 12)) == wanted


def test_an_empty_map_and_an_array() -> None:
    for kind, count in ((HASH, 0), (ARRAY, 5)):
        fd = sys_bpf.map_create(kind, "items", key_size=4, value_size=8, max_entries=5)
        try:
            assert len(list(sys_bpf.map_items(fd, 4, 8))) == count
        finally:
            os.close(fd)


def test_what_is_no_map_is_an_error() -> None:
    with open("/dev/null") as file, pytest.raises(OSError, match="Invalid argument"):
        list(sys_bpf.map_items(file.fileno(), 4, 8))
