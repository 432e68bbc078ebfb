"""How much of the kernel side was found gone and made again, by part; and the lines that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from redirect.findings import Finding, Part


class Repairs:
    """Since this was built."""

    def __init__(self) -> None:
        self.by_part: Counter[Part] = Counter()

    def of_pins(self, names: Collection[str]) -> list[str]:
        self.by_part[Part.PIN] += len(names)
        return [f"pin {name} was gone: made again" for name in names]

    def of_foundation(self, found: Iterable[Finding]) -> list[str]:
        """Of what no pod changes."""
        lines = []
        for each in found:
            self.by_part[each.part] += 1
            lines.append(f"made again: {each.reason}")
        return lines

    def of_prefilter(self, found: Collection[str]) -> list[str]:
        self.by_part[Part.PREFILTER] += len(found)
        return [f"made as it was: {words}" for words in found]

    def of_pods(self, number: int) -> None:
        """Interfaces whose programs were off, or behind those of others, or unknown to them."""
        self.by_part[Part.PROGRAM] += number
