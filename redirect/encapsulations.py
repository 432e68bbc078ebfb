"""The kinds of packets that carry others, as bpf/include/ztun_types.h has them, and a choice of them as `conf` does.

Part of `layout`, which has the rest of that header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import bpf

_HEADER = (Path(bpf.__file__).parent / "include" / "ztun_types.h").read_text()
ENCAPSULATIONS = {name: int(number) for name, number in re.findall(r"\bX\((\w+), (\d+)\)", _HEADER)}
"""IP protocol of each kind, by its name, in the order of their bits."""
UDP_ENCAPSULATIONS = {
    name: tuple(sorted({int(port), int(another)}))
    for name, port, another in re.findall(r"\bY\((\w+), (\d+), (\d+)\)", _HEADER)
}
"""Ports of those over UDP, whose bits come behind."""
NAMES = (*ENCAPSULATIONS, *UDP_ENCAPSULATIONS)


def encapsulation_bits(names: Iterable[str]) -> int:
    """The form in which `conf` has a choice of them. Raises ValueError for another name."""
    return sum(1 << NAMES.index(name) for name in set(names))


def encapsulation_names(bits: int) -> list[str]:
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]
