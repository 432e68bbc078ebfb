"""Visits: connections that are opened, say one thing, hear it back and end, one after the other. A process of its own.

`python -S -E -m tests.bench.visits HOST PORT AT_ONCE` makes them until its standard input ends, and then prints what
became of them as one JSON object; for each line that it reads it prints how many there were so far. A visit is whole
when the answer is what was sent and the other end has ended as this one has.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

PATIENCE_S = 30.0
WORDS = b"one visit of many"
TOLD = 50
"""Failures that are told one by one."""


@dataclass(slots=True)
class Book:
    """What became of visits. `failed`: how many, by step and error; `failures`: when and how, of the first."""

    made: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def visit(self, host: str, port: int) -> None:
        began_s, step = time.monotonic(), "connect"
        try:
            with socket.create_connection((host, port), PATIENCE_S) as connection:
                step = "say"
                connection.sendall(WORDS)
                connection.shutdown(socket.SHUT_WR)
                step = "hear"
                heard = b""
                while chunk := connection.recv(256):
                    heard += chunk
                if heard != WORDS:
                    raise ConnectionError(f"{len(heard)} of {len(WORDS)} bytes")
        except OSError as error:
            what = f"{step}: {error}"
            self.failed[what] += 1
            if len(self.failures) < TOLD:
                self.failures.append((time.monotonic(), what))
        self.made += 1
        self.took_s.append(time.monotonic() - began_s)


def add(books: list[Book]) -> dict[str, object]:
    took = sorted(second for book in books for second in book.took_s)
    failed: Counter[str] = Counter()
    for book in books:
        failed.update(book.failed)
    return {
        "visits": sum(book.made for book in books),
        "failed": dict(failed),
        "failures": sorted(failure for book in books for failure in book.failures),
        "p50_s": quantile(took, 0.5),
        "p99_s": quantile(took, 0.99),
        "longest_s": took[-1] if took else 0.0,
    }


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main(argv: list[str]) -> None:
    host, port, at_once = argv[0], int(argv[1]), int(argv[2])
    is_over = threading.Event()
    books = [Book() for _ in range(at_once)]

    def go_on(book: Book) -> None:
        while not is_over.is_set():
            book.visit(host, port)

    threads = [threading.Thread(target=go_on, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for _ in sys.stdin:
        sys.stdout.write(f"{sum(book.made for book in books)}\n")
        sys.stdout.flush()
    is_over.set()
    for thread in threads:
        thread.join()
    json.dump(add(books), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
