"""Versions of names: as a dict has them, in memory that does not grow with what comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.wire.xds_versions import SLACK_BYTES, Versions

NAMES = st.sampled_from(["", "a", "Kubernetes//Pod/apps/web-1", "ä" * 70])


@given(st.lists(st.tuples(NAMES, st.none() | st.text(max_size=3)), max_size=30))
def test_as_a_dict(steps: list[tuple[str, str | None]]) -> None:
    versions, known = Versions(), dict[str, str]()
    for name, version in steps:
        if version is None:
            versions.discard(name)
            known.pop(name, None)
        else:
            versions[name] = known[name] = version
        assert dict(versions.items()) == known
        assert (sorted(versions), len(versions)) == (sorted(known), len(known))


def test_memory_is_that_of_what_is_there() -> None:
    versions = Versions()
    for n in range(3):
        versions[f"stays-{n}"] = "1"
    for n in range(20_000):
        versions[f"goes-{n}"] = versions["changes"] = str(n)
        versions.discard(f"goes-{n}")
    assert dict(versions.items()) == {**{f"stays-{n}": "1" for n in range(3)}, "changes": "19999"}
    assert versions._rows.total_bytes < 2 * SLACK_BYTES
