"""Tables against dicts: whatever is added and taken out, and however alike the hashes are."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.rows import CHUNK_BYTES, Rows
from agent.model.steps import to_the_end
from agent.model.table import DEAD, Table

# Of few values, so that hashes meet: in full, and in the bits by which a small table begins its search.
HASHES = st.sampled_from([0, 1, 8, 16, 1 << 31, 0xFFFFFFFF, -1, 1 << 40, (1 << 40) + 8])
CHANGES = st.lists(st.tuples(st.booleans(), HASHES, st.integers(1, 12)), max_size=60)


def put(table: Table, key_hash: int, row: int) -> None:
    if table.is_full(1):
        to_the_end(table.growing(1))
    table.add(key_hash, row)


@settings(max_examples=300)
@given(CHANGES)
def test_a_table_holds_what_a_dict_of_lists_would(changes: list[tuple[bool, int, int]]) -> None:
    table, known = Table(), dict[int, list[int]]()
    before, was = table.copy(), 0
    for is_new, key_hash, row in changes:
        rows = known.setdefault(key_hash & 0xFFFFFFFF, [])
        if not is_new:
            table.discard(key_hash, row)
            if row in rows:
                rows.remove(row)
        elif row not in rows or rows[-1] == row:
            put(table, key_hash, row)
            rows[:] = [*(each for each in rows if each != row), row]
        if len(table) % 5 == 0:
            before, was = table.copy(), len(table)
    assert {h: list(table.rows(h)) for h in known} == known
    assert Counter(table) == Counter(row for rows in known.values() for row in rows)
    assert len(table) == sum(map(len, known.values()))
    assert len(before) == was == len(list(before)), "a copy is not touched by what comes later"


def test_a_table_stays_small_whatever_comes_and_goes() -> None:
    table = Table()
    for row in range(1, 20_000):
        put(table, row * 7919, row)
        table.discard((row - 10) * 7919, row - 10)
    assert len(table) == 10 and sorted(table) == list(range(19_990, 20_000))
    assert len(table._rows) <= 64


def test_growing_rests_again_and_again() -> None:
    table = Table()
    for row in range(1, 5_000):
        put(table, hash(str(row)), row)
    assert len(list(table.growing(100_000))) > 10
    assert all(table.rows(hash(str(row))) == (row,) for row in range(1, 5_000))


def test_rows_lie_where_their_numbers_say() -> None:
    rows, texts = Rows(), [b"short", b"x" * (CHUNK_BYTES + 5), b"behind", b"", b"y" * CHUNK_BYTES, b"end"]
    numbers = [rows.add(text) for text in texts]
    assert len(set(numbers)) == len(texts) - 1, "one without bytes lies where the next one does"
    assert all(0 < number < DEAD for number in numbers)
    for number, text in zip(numbers, texts, strict=True):
        chunk, at = rows.at(number)
        assert chunk[at : at + len(text)] == text
    assert rows.total_bytes == sum(map(len, texts))
