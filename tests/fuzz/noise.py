"""Bytes that a fuzzer chose, read as choices: the same bytes are the same choices, and behind their end all are 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Noise:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def bytes(self, size: int) -> bytes:
        """So many, or what is left."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        return self.bytes(self.left)

    def below(self, end: int) -> int:
        """An integer from 0 to end - 1, of as many bytes as that takes."""
        return int.from_bytes(self.bytes(((end - 1).bit_length() + 7) // 8), "big") % end

    def some(self) -> bytes:
        """Up to 255 bytes, whose number comes first."""
        return self.bytes(self.below(256))

    def text(self) -> str:
        return self.some().decode("latin-1")

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def pieces(self, data: bytes) -> list[bytes]:
        """The same bytes, cut where the next choices say; the last cut is repeated for ever."""
        cut = []
        size = 0
        while data:
            size = 1 + (self.below(256) or 255) if self.left else size or len(data)
            cut.append(data[:size])
            data = data[size:]
        return cut
