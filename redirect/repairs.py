"""How much of the kernel side was found gone and made again, by part; and the lines that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from redirect.errors import RedirectError, StepFailed
from redirect.findings import Finding, Part
from redirect.kept_pins import NotAllPinned


class Repairs:
    """Since this was built."""

    def __init__(self) -> None:
        self.by_part: Counter[Part] = Counter()

    def mend(
        self, restore_pins: Callable[[], list[str]], mend_foundation: Callable[[], Iterable[Finding]]
    ) -> tuple[list[str], list[RedirectError]]:
        """Makes again what somebody took away of what no pod changes: what was done, and what could not be."""
        done: list[str] = []
        failures: list[RedirectError] = []
        try:
            done += self.of_pins(restore_pins())
        except (RedirectError, OSError) as error:
            done += self.of_pins(error.pinned if isinstance(error, NotAllPinned) else ())
            failures.append(StepFailed("make a lost pin again", str(error)))
        try:
            done += self.of_foundation(mend_foundation())
        except (RedirectError, OSError) as error:
            failures.append(StepFailed("make the private namespaces whole again", str(error)))
        return done, failures

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
