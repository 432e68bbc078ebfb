"""Lines about the kernel side, when there are more of a kind than anybody reads.

A map of 16,384 entries that somebody filled is 16,384 things to make good, and a log that says each loses other lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from agent.model.counted import counted

MOST = 500
"""Of a kind, in one go: half of what may wait for a slow reader of the log."""
LONGEST = 2000
"""Characters of a line."""


def abridged(lines: Iterable[str]) -> Iterator[str]:
    """At most MOST that begin with the same word, and after them how many more there were; LONGEST is the longest."""
    seen: Counter[str] = Counter()
    for line in lines:
        word = line.partition(" ")[0]
        seen[word] += 1
        if seen[word] <= MOST:
            yield (
                line
                if len(line) <= LONGEST
                else f"{line[:LONGEST]} ... ({counted(len(line) - LONGEST, 'more character')})"
            )
    for word, many in seen.items():
        if many > MOST:
            yield f"{word} ...: {many - MOST} more of these"
