"""Names of the two sides: distinct for distinct instances, and short enough for the kernel."""

from __future__ import annotations

import pytest

from redirect.side import IFNAME_LIMIT, Side, sides_of


def test_the_default_instance_has_the_documented_names() -> None:
    assert sides_of("ztun") == (Side("ztun-pod", "ztun-mo"), Side("ztun-net", "ztun-mi"))


def test_long_names_are_cut_and_stay_apart() -> None:
    names = [
        side.ifname
        for instance in ("a-very-long-instance-1", "a-very-long-instance-2")
        for side in sides_of(instance)
    ]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= IFNAME_LIMIT


@pytest.mark.parametrize("instance", ["", "-x", "a/b", "..", "Ztun", "a b", "x" * 32])
def test_a_name_that_could_be_a_path_or_is_too_long_is_refused(instance: str) -> None:
    with pytest.raises(ValueError, match="instance"):
        sides_of(instance)
